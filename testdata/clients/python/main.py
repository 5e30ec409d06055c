"""Proves that the official Python server library (pusher) works against edge unchanged.

Called are trigger, trigger_batch, channels_info, channel_info, users_info, send_to_user, terminate_user_connections and,
checked by using what they return over a WebSocket, authenticate for private, encrypted and presence channels and
authenticate_user. The library is peculiar in two ways that a server has to accept: it signs body_md5 on GET requests too,
and it posts terminate_connections to /users/ID/... without the app in the path.
"""

import base64
import json
import os
import struct
import sys

import nacl.secret
import pusher
import websocket
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus

HOST, PORT = os.environ["EDGE_HOST"], int(os.environ["EDGE_PORT"])
APP_ID, KEY, SECRET = os.environ["EDGE_APP_ID"], os.environ["EDGE_KEY"], os.environ["EDGE_SECRET"]
TIMEOUT = 120  # seconds for any one answer; only matters in failure
MASTER_KEY = base64.b64encode(b"8tW5FQLniQ1sBQFwrw7t6TVEsJZd10yY")
USER = {"id": "py-user", "user_info": {"name": "Pÿ"}}


class Failure(Exception):
    """An expectation that was not met."""


def same(what, got, want):
    if got != want:
        raise Failure(f"{what} is {got!r}, want {want!r}")


def refused(what, error, call, *args):
    """The call must raise the error, whose text is returned."""
    try:
        got = call(*args)
    except error as e:
        return str(e)
    except Exception as e:
        raise Failure(f"{what} raised {e!r}, want {error.__name__}")
    raise Failure(f"{what} returned {got!r}, want {error.__name__}")


class Socket:
    """One subscriber. It reads strictly in order on every channel; between channels there is no order to rely on."""

    def __init__(self):
        self.held = {}  # by channel: read while waiting on another channel
        url = f"ws://{HOST}:{PORT}/app/{KEY}?protocol=7&client=py-test&version=1.0.0"
        self.ws = websocket.create_connection(url, timeout=TIMEOUT)
        self.id = json.loads(self.expect("pusher:connection_established"))["socket_id"]

    def send(self, event, data):
        self.ws.send(json.dumps({"event": event, "data": data}))

    def read(self):
        """Next frame; pings and subscription counts, which a server may add anywhere, are passed over."""
        while True:
            opcode, payload = self.ws.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None
                return {"event": "closed", "data": code}
            frame = json.loads(payload)
            if frame["event"] not in ("pusher:ping", "pusher_internal:subscription_count"):
                return frame

    def expect(self, event, channel=None):
        """Data of the channel's next message, which must be the event."""
        while not self.held.get(channel):
            frame = self.read()
            if frame["event"] == "closed":
                raise Failure(f"closed with {frame['data']}, want {event} on {channel}")
            self.held.setdefault(frame.get("channel"), []).append(frame)
        frame = self.held[channel].pop(0)
        if frame["event"] != event:
            raise Failure(f"received {frame!r}, want {event}")
        return frame.get("data")

    def expect_nothing(self):
        same("messages that nobody waited for", [frame for held in self.held.values() for frame in held], [])

    def receives(self, event, channel, data):
        same(f"data of {event} on {channel}", self.expect(event, channel), data)

    def subscribe(self, channel, auth):
        self.send("pusher:subscribe", {"channel": channel, **auth})
        return json.loads(self.expect("pusher_internal:subscription_succeeded", channel))

    def expect_close(self, code):
        frame = self.read()
        if frame["event"] == "pusher:error":  # a server may say why before it closes
            frame = self.read()
        same("end of the connection", frame, {"event": "closed", "data": code})
        self.expect_nothing()


def new_client(secret=SECRET):
    return pusher.Pusher(APP_ID, KEY, secret, ssl=False, host=HOST, port=PORT, timeout=TIMEOUT,
                         encryption_master_key_base64=MASTER_KEY)


def authenticate(client, alice, bob):
    """Tokens made by the library are accepted over the WebSocket."""
    for socket in alice, bob:
        same("py-public", socket.subscribe("py-public", {"auth": ""}), {})
        auth = client.authenticate(channel="private-py", socket_id=socket.id)
        same("private-py", socket.subscribe("private-py", auth), {})

    info = {"user_id": "a", "user_info": {"name": "Älice"}}
    auth = client.authenticate(channel="presence-py", socket_id=alice.id, custom_data=info)
    members = alice.subscribe("presence-py", auth)["presence"]
    same("members", members, {"count": 1, "ids": ["a"], "hash": {"a": {"name": "Älice"}}})
    auth = client.authenticate(channel="presence-py", socket_id=bob.id, custom_data={"user_id": 7})
    members = bob.subscribe("presence-py", auth)["presence"]
    members["ids"].sort()
    same("members", members, {"count": 2, "ids": ["7", "a"], "hash": {"a": {"name": "Älice"}, "7": {}}})
    added = json.loads(alice.expect("pusher_internal:member_added", "presence-py"))
    same("member_added", added, {"user_id": "7", "user_info": {}})

    auth = client.authenticate_user(socket_id=alice.id, user_data=USER)
    alice.send("pusher:signin", auth)
    same("signin_success", alice.expect("pusher:signin_success"), {"user_data": auth["user_data"]})
    same("server-to-user channel", alice.subscribe("#server-to-user-py-user", {"auth": ""}), {})


def trigger(client, alice, bob):
    same("trigger", client.trigger("private-py", "hello", {"text": 'quote " grüße 🚀'}), {})
    for socket in alice, bob:
        socket.receives("hello", "private-py", '{"text": "quote \\" grüße 🚀"}')
    client.trigger(["py-public", "presence-py"], "not-alice", "raw", alice.id)
    client.trigger(["py-public", "presence-py"], "everyone", "1")
    for channel in "py-public", "presence-py":
        bob.receives("not-alice", channel, "raw")
        for socket in alice, bob:  # alice reads this next, so she never got the one before
            socket.receives("everyone", channel, "1")

    same("trigger_batch", client.trigger_batch([
        {"channel": "py-public", "name": "first", "data": {"n": 1}},
        {"channel": "py-public", "name": "second", "data": "2", "socket_id": bob.id},
        {"channel": "private-py", "name": "third", "data": "3"},
    ]), {})
    alice.receives("first", "py-public", '{"n": 1}')
    alice.receives("second", "py-public", "2")
    alice.receives("third", "private-py", "3")
    bob.receives("first", "py-public", '{"n": 1}')
    bob.receives("third", "private-py", "3")


def send_to_user(client, alice, _):
    same("send_to_user", client.send_to_user("py-user", "for-you", {"n": 1}), {})
    alice.receives("for-you", "#server-to-user-py-user", '{"n": 1}')


def encrypted(client, alice, _):
    """What the library encrypts arrives so that the shared secret it hands to clients opens it."""
    channel = "private-encrypted-py"
    auth = client.authenticate(channel=channel, socket_id=alice.id)
    alice.subscribe(channel, {"auth": auth["auth"]})
    client.trigger(channel, "sealed", {"secret": "value"})
    sealed = json.loads(alice.expect("sealed", channel))
    same("keys of the encrypted data", sorted(sealed), ["ciphertext", "nonce"])
    box = nacl.secret.SecretBox(base64.b64decode(auth["shared_secret"]))
    opened = box.decrypt(base64.b64decode(sealed["ciphertext"]), base64.b64decode(sealed["nonce"]))
    same("decrypted data", json.loads(opened), {"secret": "value"})


def query(client, *_):
    listed = client.channels_info("presence-py", ["user_count"])
    same("channels_info", listed, {"channels": {"presence-py": {"user_count": 2}}})
    same("channels_info without match", client.channels_info("py-nobody"), {"channels": {}})
    listed = set(client.channels_info()["channels"])
    same("occupied channels", {"py-public", "private-py", "presence-py"} - listed, set())

    counts = ["user_count", "subscription_count"]
    same("channel_info", client.channel_info("presence-py", counts),
         {"occupied": True, "user_count": 2, "subscription_count": 2})
    same("channel_info of a channel without subscribers", client.channel_info("py-nobody"), {"occupied": False})

    users = client.users_info("presence-py")["users"]
    same("users_info", sorted(user["id"] for user in users), ["7", "a"])
    same("users_info of an empty channel", client.users_info("presence-py-nobody"), {"users": []})
    refused("users_info of a public channel", PusherBadRequest, client.users_info, "py-public")
    refused("user_count without prefix", PusherBadRequest, client.channels_info, None, ["user_count"])


def refusals(client, *_):
    forger = new_client(SECRET + "x")
    refused("trigger with a wrong secret", PusherBadAuth, forger.trigger, "py-public", "forged", "{}")
    refused("channels_info with a wrong secret", PusherBadAuth, forger.channels_info)
    refused("terminate with a wrong secret", PusherBadAuth, forger.terminate_user_connections, "py-user")
    text = refused("10,241 bytes of data", PusherBadStatus, client.trigger, "py-public", "large", "x" * 10241)
    same("status of 10,241 bytes of data", text[:4], "413:")


def terminate(client, alice, bob):
    """Ends alice, who is signed in, and leaves bob, who is not."""
    same("terminate", client.terminate_user_connections("py-user"), {})
    alice.expect_close(4009)
    removed = json.loads(bob.expect("pusher_internal:member_removed", "presence-py"))
    same("member_removed", removed, {"user_id": "a"})
    client.trigger("py-public", "still-here", "1")
    bob.receives("still-here", "py-public", "1")
    same("terminate without connections", client.terminate_user_connections("py-user"), {})


def main():
    step = Socket
    try:
        client, alice, bob = new_client(), Socket(), Socket()
        for step in authenticate, trigger, send_to_user, encrypted, query, refusals, terminate:
            step(client, alice, bob)
        bob.expect_nothing()
        bob.ws.close()
    except Exception as e:
        reason = str(e) if isinstance(e, Failure) else repr(e)
        sys.exit(f"python client: {step.__name__}: {reason}")
    print("python client: ok")


if __name__ == "__main__":
    main()
