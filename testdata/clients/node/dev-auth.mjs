// Proves that pusher-js 8 and 4 need no backend with edge -dev-auth: private and presence channels and users are signed
// for by edge itself. Node has no page whose address the paths could be below, so that the endpoints are written out.

import Pusher from "pusher-js";
import Pusher4 from "pusher-js-4";
import { address, connected, edge, equal, fresh, next, run, server, subscribe, succeeded, track, watch } from "./lib.mjs";

watch(Pusher4);

const at = (path) => `http://${edge.host}:${edge.port}${path}`;

function connect(params = {}) {
  return connected(
    track(
      new Pusher(edge.key, {
        ...address,
        channelAuthorization: { endpoint: at("/pusher/auth"), params },
        userAuthentication: { endpoint: at("/pusher/user-auth"), params },
      }),
    ),
  );
}

async function receives(channel) {
  const received = next(channel, "greeting");
  await server.trigger(channel.name, "greeting", { text: "hello" });
  equal(await received, { text: "hello" }, `data on ${channel.name}`);
}

run({
  "private channels": async () => {
    for (const kind of ["private", "private-cache"]) await receives(await subscribe(await connect(), fresh(kind)));
  },

  "presence channels: two connections are two members": async () => {
    const name = fresh("presence");
    const first = await subscribe(await connect(), name);
    const added = next(first, "pusher:member_added");
    const second = await subscribe(await connect(), name);
    equal(second.members.count, 2, "members");
    equal(second.members.me.info, { name: second.members.me.id }, "what is made up of a user");
    equal((await added).id, second.members.me.id, "who has come");
    await receives(second);
  },

  "presence channels: who the page says": async () => {
    const pusher = await connect({ user_id: "ada", user_info: JSON.stringify({ name: "Ada" }) });
    const channel = await subscribe(pusher, fresh("presence"));
    equal(channel.members.me, { id: "ada", info: { name: "Ada" } }, "me");
  },

  "users, and presence with them": async () => {
    const pusher = await connect({ user_id: "ada" });
    pusher.signin();
    await pusher.user.signinDonePromise;
    equal(pusher.user.user_data.id, "ada", "user");
    const received = next(pusher.user, "greeting");
    await server.sendToUser("ada", "greeting", { text: "hello" });
    equal(await received, { text: "hello" }, "data to the user");
    equal((await subscribe(pusher, fresh("presence"))).members.me.id, "ada", "me");
  },

  "an encrypted channel is refused, and the connection stays usable": async () => {
    const pusher = await connect();
    const refused = next(pusher.subscribe(fresh("private-encrypted")), "pusher:subscription_error");
    equal((await refused).status, 400, "status");
    await receives(await subscribe(pusher, fresh("private")));
  },

  "pusher-js 4": async () => {
    const pusher = track(new Pusher4(edge.key, { ...address, disableStats: true, authEndpoint: at("/pusher/auth") }));
    await connected(pusher);
    const channel = pusher.subscribe(fresh("presence"));
    await succeeded(channel);
    equal(channel.members.count, 1, "members");
    await receives(channel);
  },
});
