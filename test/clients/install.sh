#!/usr/bin/env bash
# Installs the clients that are not Go, in their pinned versions, for the tests
# in ../. Does nothing where that is done. Exits with 1 if something could not
# be installed; the tests that need it are then skipped, or fail with CI=true.
set -u
cd "$(dirname "$0")"
failed=0

missing() {
	echo "clients: $1" >&2
	failed=1
}

# have PROGRAM PACKAGE...: installs Debian packages unless the program is there.
have() {
	local program=$1
	shift
	command -v "$program" >/dev/null && return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		missing "no $program; install $*"
		return 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	[ -n "${updated:-}" ] || apt-get update -qq >&2
	updated=1
	if ! apt-get install -y -qq --no-install-recommends "$@" >/dev/null; then
		missing "cannot install $*"
		return 1
	fi
}

# current STAMP FILE...: whether the stamp was written for these files.
current() {
	local stamp=$1
	shift
	[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cat "$@" | cksum)" ]
}

have mosquitto_pub mosquitto-clients

if have node nodejs && have npm npm && ! current node_modules/.stamp package.json package-lock.json; then
	if npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; then
		cat package.json package-lock.json | cksum >node_modules/.stamp
	else
		missing "cannot install MQTT.js"
	fi
fi

if have python3 python3 && ! current venv/.stamp requirements.txt; then
	rm -rf venv
	python3 -m venv venv 2>/dev/null || { rm -rf venv && have python3-venv python3-venv && python3 -m venv venv; }
	if [ -x venv/bin/python ] && venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt >/dev/null; then
		cat requirements.txt | cksum >venv/.stamp
	else
		missing "cannot install paho-mqtt"
	fi
fi

exit $failed
