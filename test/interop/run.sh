#!/usr/bin/env bash
# run.sh NAME: runs the driver of one SDK, which install.sh has made.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
name=${1:?usage: run.sh NAME}
case $name in
go-remoting | go-grpc) exec "$here/.bin/$name" ;;
node-grpc) exec node "$here/node-grpc/driver.mjs" ;;
python-grpc) exec "$here/python-grpc/venv/bin/python" "$here/python-grpc/driver.py" ;;
ons-client | rocketmq-client-4 | rocketmq-client-5 | rocketmq-client-java) exec "$here/java/run.sh" "$name" ;;
*)
	echo "run.sh: no driver $name" >&2
	exit 2
	;;
esac
