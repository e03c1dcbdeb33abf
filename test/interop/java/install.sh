#!/usr/bin/env bash
# Builds the drivers of the Java SDKs, all of them, in their pinned versions.
# Does nothing where that is done. Says nothing when it succeeds. Exits with 3
# and one line if a program is missing, with 1 if the build fails. Several may
# run at once where there is flock.
set -u
cd "$(dirname "$0")"

for program in java javac mvn; do
	if ! command -v "$program" >/dev/null; then
		echo "no $program" >&2
		exit 3
	fi
done
version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
if [ "${version:-0}" -lt 17 ]; then
	echo "no javac of version 17 or later" >&2
	exit 3
fi

sources=$(find . -name target -prune -o -type f \( -name '*.java' -o -name pom.xml \) -print | LC_ALL=C sort | xargs cksum)
mkdir -p target
exec 9>target/lock
if command -v flock >/dev/null; then
	flock 9
fi
[ -f target/stamp ] && [ "$(cat target/stamp)" = "$sources" ] && exit 0
rm -rf target/stamp ./*/target
if ! mvn -q -B package >target/build.log 2>&1 9>&-; then
	grep -m 5 ERROR target/build.log >&2
	echo "the build failed, see test/interop/java/target/build.log" >&2
	exit 1
fi
echo "$sources" >target/stamp
