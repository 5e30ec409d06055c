"""Proves that the official Python server library (pusher) validates and reads the webhooks of edge unchanged.

Expected are all seven events with exactly their fields, in the order in which they happened and nothing between them, nothing
after a quick return, the same bytes again after an answer that is not 2xx, and that the library refuses forgeries. edge has to
send them to EDGE_WEBHOOK_PORT, to this program alone, with -subscription-count and a short -webhook-grace.
"""

import http.server
import json
import os
import queue
import re
import sys
import threading
import time

from main import KEY, SECRET, TIMEOUT, Failure, Socket, new_client, same


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 200 to what the library validates, except that the first delivery of all has to be made again."""

    client = new_client()
    requests = queue.Queue()  # (headers, body)
    refusals = 1

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if Receiver.refusals:
            Receiver.refusals -= 1
            self.send_response(503)
        elif self.client.validate_webhook(self.headers["X-Pusher-Key"], self.headers["X-Pusher-Signature"], body):
            self.send_response(200)
        else:
            self.send_response(401)
        self.end_headers()
        self.requests.put((dict(self.headers), body))

    def log_message(self, *_):
        pass


class Hook:
    """The events that have come, in order."""

    def __init__(self):
        self.events = []

    def receive(self):
        """The next request: (headers, body), with the events of its validated body."""
        try:
            headers, body = self.last = Receiver.requests.get(timeout=TIMEOUT)
        except queue.Empty:
            raise Failure(f"nothing came within {TIMEOUT} s; before it {self.events!r}")
        same("Content-Type", headers.get("Content-Type"), "application/json")
        if not re.fullmatch("[0-9a-f]{64}", headers["X-Pusher-Signature"]):  # other libraries compare it as it is
            raise Failure(f"signature is {headers['X-Pusher-Signature']!r}")
        data = Receiver.client.validate_webhook(headers["X-Pusher-Key"], headers["X-Pusher-Signature"], body)
        if data is None:
            raise Failure(f"the library refuses {headers!r} {body!r}")
        same("fields of the body", sorted(data), ["events", "time_ms"])
        same("type of time_ms", type(data["time_ms"]), int)
        return data["events"]

    def told(self, *events):
        """Waits until these are the events that have come since the last call, in this order."""
        while len(self.events) < len(events):
            self.events += self.receive()
        got, self.events = self.events[:len(events)], self.events[len(events):]
        same("webhook events", got, list(events))


def event(name, channel, **fields):
    return {"name": name, "channel": channel, **fields}


def leave(socket, channel):
    socket.send("pusher:unsubscribe", {"channel": channel})


def enter(socket, channel, user):
    auth = Receiver.client.authenticate(channel=channel, socket_id=socket.id, custom_data={"user_id": user})
    socket.subscribe(channel, auth)


def again(hook, alice, _):
    """What was not accepted comes again, byte for byte."""
    alice.subscribe("presence-first", Receiver.client.authenticate(
        channel="presence-first", socket_id=alice.id, custom_data={"user_id": "a"}))
    hook.receive()
    refused = hook.last
    hook.events = hook.receive()
    same("body of the second attempt", hook.last[1], refused[1])
    same("headers of the second attempt", hook.last[0], refused[0])
    hook.told(event("channel_occupied", "presence-first"), event("member_added", "presence-first", user_id="a"))
    leave(alice, "presence-first")
    hook.told(event("member_removed", "presence-first", user_id="a"), event("channel_vacated", "presence-first"))


def occupied(hook, alice, bob):
    alice.subscribe("py-public", {"auth": ""})
    hook.told(event("channel_occupied", "py-public"), event("subscription_count", "py-public", subscription_count=1))
    bob.subscribe("py-public", {"auth": ""})
    hook.told(event("subscription_count", "py-public", subscription_count=2))
    leave(alice, "py-public")
    hook.told(event("subscription_count", "py-public", subscription_count=1))
    leave(bob, "py-public")
    hook.told(event("subscription_count", "py-public", subscription_count=0), event("channel_vacated", "py-public"))


def members(hook, alice, bob):
    room = "presence-py"
    enter(alice, room, "Älice\n")
    hook.told(event("channel_occupied", room), event("member_added", room, user_id="Älice\n"))
    enter(bob, room, 7)
    hook.told(event("member_added", room, user_id="7"))
    leave(alice, room)
    hook.told(event("member_removed", room, user_id="Älice\n"))
    leave(bob, room)
    hook.told(event("member_removed", room, user_id="7"), event("channel_vacated", room))


def client_events(hook, alice, _):
    room, desk = "presence-talk", "private-talk"
    enter(alice, room, 7)
    alice.subscribe(desk, Receiver.client.authenticate(channel=desk, socket_id=alice.id))
    hook.told(event("channel_occupied", room), event("member_added", room, user_id="7"),
              event("channel_occupied", desk), event("subscription_count", desk, subscription_count=1))
    for sent in {"é": '"\\🚀'}, "plain ☃", [1, None], False:
        data = sent if isinstance(sent, str) else json.dumps(sent, separators=(",", ":"))
        for channel, fields in (room, {"user_id": "7"}), (desk, {}):
            alice.ws.send(json.dumps({"event": "client-e", "channel": channel, "data": sent}))
            hook.told(event("client_event", channel, event="client-e", data=data, socket_id=alice.id, **fields))
    leave(alice, desk)
    leave(alice, room)
    hook.told(event("subscription_count", desk, subscription_count=0), event("channel_vacated", desk),
              event("member_removed", room, user_id="7"), event("channel_vacated", room))


def cache(hook, alice, bob):
    alice.subscribe("cache-py", {"auth": ""})
    alice.receives("pusher:cache_miss", "cache-py", "{}")
    hook.told(event("channel_occupied", "cache-py"), event("cache_miss", "cache-py"),
              event("subscription_count", "cache-py", subscription_count=1))
    Receiver.client.trigger("cache-py", "e", "1")
    bob.subscribe("cache-py", {"auth": ""})
    hook.told(event("subscription_count", "cache-py", subscription_count=2))
    leave(alice, "cache-py")
    hook.told(event("subscription_count", "cache-py", subscription_count=1))
    leave(bob, "cache-py")
    hook.told(event("subscription_count", "cache-py", subscription_count=0), event("channel_vacated", "cache-py"))


def quick_return(hook, alice, _):
    """Of who leaves and returns at once nothing is told, which the later leaving of another channel shows."""
    for channel in "presence-room", "presence-marker":
        enter(alice, channel, "a")
        hook.told(event("channel_occupied", channel), event("member_added", channel, user_id="a"))
    leave(alice, "presence-room")
    enter(alice, "presence-room", "a")
    leave(alice, "presence-marker")
    hook.told(event("member_removed", "presence-marker", user_id="a"), event("channel_vacated", "presence-marker"))
    alice.ws.close()
    hook.told(event("member_removed", "presence-room", user_id="a"), event("channel_vacated", "presence-room"))


def forgeries(hook, *_):
    headers, body = hook.last
    signature = headers["X-Pusher-Signature"]
    validate = Receiver.client.validate_webhook
    age = time.time() * 1000 - validate(KEY, signature, body)["time_ms"]
    same(f"plausibility of an age of {age} ms", -1000 < age < 600_000, True)
    tampered = body.replace(b"presence-room", b"presence-hall")
    same("tampered", tampered != body, True)
    same("validated with another body", validate(KEY, signature, tampered), None)
    same("validated with another key", validate(KEY + "x", signature, body), None)
    same("validated with another signature", validate(KEY, "0" * 64, body), None)
    same("validated with another secret", new_client(SECRET + "x").validate_webhook(KEY, signature, body), None)


def main():
    step = Hook
    try:
        server = http.server.HTTPServer(("127.0.0.1", int(os.environ["EDGE_WEBHOOK_PORT"])), Receiver)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hook, alice, bob = Hook(), Socket(), Socket()
        for step in again, occupied, members, client_events, cache, quick_return, forgeries:
            step(hook, alice, bob)
        same("further events", hook.events, [])
        server.shutdown()
    except Exception as e:
        reason = str(e) if isinstance(e, Failure) else repr(e)
        sys.exit(f"python webhook receiver: {step.__name__}: {reason}")
    print("python webhook receiver: ok")


if __name__ == "__main__":
    main()
