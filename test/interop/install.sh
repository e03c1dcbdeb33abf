#!/usr/bin/env bash
# install.sh NAME: builds or installs the driver of one SDK; does nothing where
# that is done. Says nothing when it succeeds. Exits with 3 if a toolchain is
# missing, after one line that names it.
set -euo pipefail
cd "$(dirname "$0")"
name=${1:?usage: install.sh NAME}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# need PROGRAM: ends unless it is there.
need() {
	command -v "$1" >/dev/null || { echo "no $1" >&2; exit 3; }
}

# quiet COMMAND...: shows the output only of a failure.
quiet() {
	"$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
}

# current STAMP FILE...: whether the stamp was written for these files.
current() {
	local stamp=$1
	shift
	[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cat "$@" | cksum)" ]
}

case $name in
go-remoting | go-grpc)
	need go
	quiet env -C "$name" CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "../.bin/$name" .
	;;
node-grpc)
	need node
	need npm
	cd "$name"
	current node_modules/.stamp package.json package-lock.json && exit 0
	quiet npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	cat package.json package-lock.json | cksum >node_modules/.stamp
	;;
python-grpc)
	need python3
	cd "$name"
	current venv/.stamp requirements.txt && exit 0
	rm -rf venv
	python3 -m venv venv >"$log" 2>&1 || { rm -rf venv; echo "no venv module of python3" >&2; exit 3; }
	quiet venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt
	cat requirements.txt | cksum >venv/.stamp
	;;
ons-client | rocketmq-client-4 | rocketmq-client-5 | rocketmq-client-java)
	exec java/install.sh "$name"
	;;
*)
	echo "install.sh: no driver $name" >&2
	exit 2
	;;
esac
