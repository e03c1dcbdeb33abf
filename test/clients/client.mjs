// MQTT.js for interop_test.go. The argument is JSON: {url, version, id,
// persistent}. Lines on standard input: {topic, payload, qos} publishes.
// Lines on standard output: {event: "connected" | "acknowledged" | "message" |
// "error", ...}. Ends with standard input.
import readline from 'node:readline'
import mqtt from 'mqtt'

const { url, version, id, persistent } = JSON.parse(process.argv[2])
const say = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')

const client = mqtt.connect(url, {
  protocolVersion: version,
  clientId: id,
  clean: !persistent,
  reconnectPeriod: 0,
  ...(version === 5 && persistent ? { properties: { sessionExpiryInterval: 0xffffffff } } : {})
})
client.on('connect', (connack) => say('connected', { present: connack.sessionPresent }))
client.on('error', (err) => say('error', { text: String(err) }))
client.on('message', (topic, payload, packet) =>
  say('message', { topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain }))

const lines = readline.createInterface({ input: process.stdin })
lines.on('line', (line) => {
  const { topic, payload, qos } = JSON.parse(line)
  client.publish(topic, payload, { qos }, (err) => (err ? say('error', { text: String(err) }) : say('acknowledged')))
})
lines.on('close', () => client.end(false, () => process.exit(0)))
