// Drives rocketmq-client-nodejs for the interop tests; the protocol is in
// ../README.md.
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import rocketmq from 'rocketmq-client-nodejs';

const { version } = createRequire(import.meta.url)('rocketmq-client-nodejs/package.json');
const { Producer } = rocketmq;

// The logger of the SDK writes to a file and to standard output, which is ours.
const log = (...args) => console.error(...args);
const logger = { info() {}, warn: log, error: log };

const say = (answer) => new Promise((done) => process.stdout.write(`${JSON.stringify(answer)}\n`, done));

// codeOf is the server's code in an error; gRPC's own are below 20000.
const codeOf = (err) => {
  for (let e = err; e; e = e.cause) {
    if (e.code >= 20000) return e.code;
  }
  return 0;
};

function textOf(err) {
  const parts = [];
  for (let e = err; e; e = e.cause) parts.push(`${e.name}: ${e.message}`);
  return parts.join('; caused by ');
}

function message(r, body) {
  const m = {
    topic: r.topic,
    body: Buffer.from(body ?? (r.body ?? '') + 'x'.repeat(r.fill ?? 0)),
    keys: r.keys ?? [],
    properties: new Map(Object.entries(r.properties ?? {})),
  };
  if (r.tag) m.tag = r.tag;
  if (r.mode === 'delay') m.deliveryTimestamp = new Date(Date.now() + r.delayMs);
  if (r.mode === 'ordered') m.messageGroup = r.orderKey;
  return m;
}

async function deliver(producer, r, body) {
  switch (r.mode) {
    case 'transaction': {
      const transaction = producer.beginTransaction();
      const receipt = await producer.send(message(r, body), transaction);
      await transaction.commit();
      return receipt;
    }
    case 'sync': case 'async': case 'delay': case 'ordered':
      return producer.send(message(r, body));
    default:
      throw new Error(`mode ${JSON.stringify(r.mode)} is not one of this SDK`);
  }
}

async function send(producer, r) {
  const start = performance.now();
  try {
    const { messageId } = await deliver(producer, r);
    await say({ id: r.id, ok: true, status: 'SEND_OK', messageId, messageIds: [messageId], ms: performance.now() - start });
  } catch (err) {
    await say({ id: r.id, ok: false, code: codeOf(err), error: textOf(err) });
  }
}

async function series(producer, r) {
  const ms = [];
  try {
    for (let i = 0; i < r.count; i++) {
      const start = performance.now();
      const micros = Math.round((performance.timeOrigin + start) * 1000);
      await deliver(producer, { ...r, mode: 'sync' }, String(micros));
      ms.push(performance.now() - start);
      if (r.everyMs) await sleep(r.everyMs);
    }
    await say({ id: r.id, ok: true, ms });
  } catch (err) {
    await say({ id: r.id, ok: false, code: codeOf(err), error: textOf(err) });
  }
}

async function start(config) {
  const began = performance.now();
  const options = { endpoints: config.endpoint, namespace: '', sslEnabled: config.tls, topics: [config.topic], logger };
  options.checker = { check: async () => 1 }; // commit
  if (config.accessKey) {
    options.sessionCredentials = { accessKey: config.accessKey, accessSecret: config.secretKey };
  }
  try {
    const producer = new Producer(options);
    await producer.startup();
    await say({
      event: 'started', sdk: `rocketmq-client-nodejs ${version} (Node.js)`, tls: true, ms: performance.now() - began,
      modes: ['sync', 'async', 'delay', 'ordered', 'transaction'],
    });
    return producer;
  } catch (err) {
    await say({ event: 'failed', code: codeOf(err), error: textOf(err) });
    process.exit(1);
  }
}

async function close(producer, id) {
  let answer = { id, ok: true };
  try {
    await producer.shutdown();
  } catch (err) {
    answer = { id, ok: false, error: textOf(err) };
  }
  if (id) await say(answer);
  process.exit(0);
}

let producer;
for await (const line of createInterface({ input: process.stdin })) {
  const r = JSON.parse(line);
  if (!producer) producer = await start(r);
  else if (r.op === 'close') await close(producer, r.id);
  else if (r.op === 'series') await series(producer, r);
  else if (r.mode === 'async') void send(producer, r);
  else await send(producer, r);
}
if (producer) await close(producer);
