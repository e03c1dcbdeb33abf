#!/usr/bin/env bash
# run.sh NAME: runs the driver of one SDK, a folder beside this file with a
# pom.xml. install.sh comes first. The SDK's logs go to NAME/target/home/logs.
set -u
cd "$(dirname "$0")/$1" || exit 1
if [ ! -f target/driver.jar ]; then
	echo "run.sh: no driver $1; run install.sh" >&2
	exit 1
fi
# C1 and one small heap: the driver shares its machine with the server.
exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx256m -Duser.home="$PWD/target/home" \
	-cp "target/driver.jar:target/lib/*" "$(sed -n 's:.*<driver.class>\(.*\)</driver.class>.*:\1:p' pom.xml)"
