"""Drives rocketmq-python-client for the interop tests; the protocol is in ../README.md."""

import json
import math
import os
import sys
import threading
import time

from rocketmq import (ClientConfiguration, Credentials, Message, Producer,
                      TransactionChecker, TransactionResolution)
from rocketmq.v5.util.version import SDK_VERSION

writing = threading.Lock()


def say(**answer):
    with writing:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def refused(err):
    """What an answer says of an error: the server's code, 0 without, and the text."""
    code = getattr(err, "code", None)  # of gRPC's own errors it is a method
    return {"ok": False, "code": int(code) if isinstance(code, int) else 0, "error": f"{type(err).__name__}: {err}"}


class Commit(TransactionChecker):
    def check(self, message):
        return TransactionResolution.COMMIT


def message(r, body=None):
    m = Message()
    m.topic = r["topic"]
    m.body = (body if body is not None else r.get("body", "") + "x" * r.get("fill", 0)).encode()
    for key in r.get("keys") or []:
        m.keys = key  # the setter adds one
    for key, value in (r.get("properties") or {}).items():
        m.add_property(key, value)
    if r.get("tag"):
        m.tag = r["tag"]
    return m


def started(config):
    """A producer with the SDK's defaults; tells how it went."""
    began = time.perf_counter()
    credentials = Credentials(config["accessKey"], config["secretKey"]) if config.get("accessKey") else Credentials()
    producer = Producer(ClientConfiguration(config["endpoint"], credentials), (config["topic"],), checker=Commit(),
                        tls_enable=config["tls"])
    try:
        producer.startup()
    except Exception as err:
        say(event="failed", **refused(err))
        os._exit(1)
    say(event="started", sdk=f"rocketmq-python-client {SDK_VERSION} (Python)", tls=True,
        modes=["sync", "async", "delay", "ordered", "transaction"], ms=1000 * (time.perf_counter() - began))
    return producer


def accepted(r, began, receipt):
    say(id=r["id"], ok=True, status="SEND_OK", messageId=receipt.message_id, messageIds=[receipt.message_id],
        ms=1000 * (time.perf_counter() - began))


def send(producer, r):
    began = time.perf_counter()

    def done(future):
        try:
            accepted(r, began, future.result())
        except Exception as err:
            say(id=r["id"], **refused(err))

    try:
        m = message(r)
        if r["mode"] == "async":
            producer.send_async(m).add_done_callback(done)
            return
        accepted(r, began, deliver(producer, r, m))
    except Exception as err:
        say(id=r["id"], **refused(err))


def deliver(producer, r, m):
    mode = r["mode"]
    if mode == "delay":
        m.delivery_timestamp = math.ceil(time.time() + r["delayMs"] / 1000)  # whole seconds
    elif mode == "ordered":
        m.message_group = r["orderKey"]
    elif mode == "transaction":
        transaction = producer.begin_transaction()
        receipt = producer.send(m, transaction)
        transaction.commit()
        return receipt
    elif mode != "sync":
        raise ValueError(f"mode {mode!r} is not one of this SDK")
    return producer.send(m)


def series(producer, r):
    took = []
    try:
        for _ in range(r["count"]):
            began = time.perf_counter()
            producer.send(message(r, str(time.time_ns() // 1000)))
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(r.get("everyMs", 0) / 1000)
        say(id=r["id"], ok=True, ms=took)
    except Exception as err:
        say(id=r["id"], **refused(err))


def close(producer, number=None):
    answer = {"ok": True}
    try:
        producer.shutdown()
    except Exception as err:
        answer = refused(err)
    if number is not None:
        say(id=number, **answer)
    os._exit(0)  # threads of the SDK go on


def main():
    producer = None
    for line in sys.stdin:
        r = json.loads(line)
        if producer is None:
            producer = started(r)
        elif r["op"] == "close":
            close(producer, r["id"])
        elif r["op"] == "series":
            series(producer, r)
        else:
            send(producer, r)
    if producer is not None:
        close(producer)


main()
