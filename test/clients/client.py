"""paho-mqtt for interop_test.go; see client.mjs, which does the same."""

import json
import sys
from urllib.parse import urlparse

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

options = json.loads(sys.argv[1])
url = urlparse(options["url"])
five = options["version"] == 5


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def on_connect(client, userdata, flags, reason, properties):
    if reason.is_failure:
        say("error", text=str(reason))
    else:
        say("connected", present=flags.session_present)


def on_message(client, userdata, m):
    say("message", topic=m.topic, payload=m.payload.decode(), qos=m.qos, retain=bool(m.retain))


def on_publish(client, userdata, mid, reason, properties):
    say("acknowledged")


kind = {} if five else {"clean_session": not options["persistent"]}
client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    client_id=options["id"],
    protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
    transport="websockets" if url.scheme == "ws" else "tcp",
    **kind,
)
if url.scheme == "ws":
    client.ws_set_options(path=url.path)
client.on_connect, client.on_message, client.on_publish = on_connect, on_message, on_publish

start = {}
if five:
    start["clean_start"] = not options["persistent"]
    start["properties"] = Properties(PacketTypes.CONNECT)
    if options["persistent"]:
        start["properties"].SessionExpiryInterval = 0xFFFFFFFF
client.connect(url.hostname, url.port, **start)
client.loop_start()
for line in sys.stdin:
    m = json.loads(line)
    client.publish(m["topic"], m["payload"], qos=m["qos"])
client.disconnect()
client.loop_stop()
