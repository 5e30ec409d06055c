import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.pusher.client.AuthenticationFailureException;
import com.pusher.client.Pusher;
import com.pusher.client.PusherOptions;
import com.pusher.client.channel.PresenceChannel;
import com.pusher.client.channel.PresenceChannelEventListener;
import com.pusher.client.channel.PrivateEncryptedChannelEventListener;
import com.pusher.client.channel.PusherEvent;
import com.pusher.client.channel.User;
import com.pusher.client.connection.ConnectionEventListener;
import com.pusher.client.connection.ConnectionState;
import com.pusher.client.connection.ConnectionStateChange;
import com.pusher.rest.data.Event;
import com.pusher.rest.data.PresenceUser;
import com.pusher.rest.data.Result;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * Proves that the official Java libraries work against edge unchanged: the server library (pusher-http-java) triggers and
 * queries, the client library (pusher-java-client) subscribes to public, private, encrypted and presence channels with tokens
 * made by the server library, sees presence members with string ids, sends a client event, and signs in. The client library
 * is the strict one: it insists on data as a string and on ids as strings.
 *
 * With TEST_PREPARE set it does nothing, so that one run of Maven online fetches all that an offline run needs.
 */
public class Main {
    private static final String HOST = System.getenv("EDGE_HOST"), PORT = System.getenv("EDGE_PORT");
    private static final String APP_ID = System.getenv("EDGE_APP_ID");
    private static final String KEY = System.getenv("EDGE_KEY"), SECRET = System.getenv("EDGE_SECRET");
    private static final int TIMEOUT = 120; // seconds for any one answer; only matters in failure
    private static final String MASTER_KEY =
            Base64.getEncoder().encodeToString("8tW5FQLniQ1sBQFwrw7t6TVEsJZd10yY".getBytes(StandardCharsets.UTF_8));
    private static final Gson GSON = new Gson();

    /** An expectation that was not met. */
    private static class Failure extends Exception {
        Failure(String text) {
            super(text);
        }
    }

    public static void main(String[] args) {
        if (System.getenv("TEST_PREPARE") != null) {
            return;
        }
        try {
            run();
        } catch (Exception e) {
            System.err.println("java client: " + (e instanceof Failure ? e.getMessage() : e));
            System.exit(1);
        }
        System.out.println("java client: ok");
        System.exit(0); // the client library leaves threads behind
    }

    private static void run() throws Exception {
        try (var server = new com.pusher.rest.Pusher(APP_ID, KEY, SECRET, MASTER_KEY)) {
            server.setHost(HOST + ":" + PORT);
            server.setRequestTimeout(TIMEOUT * 1000);
            Client alice = new Client(server, "a", "Älice"), bob = new Client(server, "b", "Bob");
            subscribe(alice, bob);
            trigger(server, alice, bob);
            clientEvent(alice, bob);
            encrypted(server, alice);
            signIn(server, alice);
            query(server);
            bob.pusher.disconnect();
            alice.wants("presence-java", "left b");
            for (Client c : List.of(alice, bob)) {
                c.wantsNothing();
            }
            alice.pusher.disconnect();
        }
    }

    private static void subscribe(Client alice, Client bob) throws Exception {
        for (Client c : List.of(alice, bob)) {
            c.pusher.subscribe("java-public", c, "hello", "multi");
            c.wants("java-public", "subscribed");
            c.pusher.subscribePrivate("private-java", c, "multi");
            c.wants("private-java", "subscribed");
            c.presence = c.pusher.subscribePresence("presence-java", c, "client-typing");
            c.wants("presence-java", "users " + (c == alice ? "[a]" : "[a, b]"));
            c.wants("presence-java", "subscribed");
        }
        alice.wants("presence-java", "joined b");
        same("ids on alice's side", ids(alice.presence.getUsers()), "[a, b]");
        same("her own id", alice.presence.getMe().getId(), "a");
        same("her own info", alice.presence.getMe().getInfo(), "{\"name\":\"Älice\"}");
    }

    private static void trigger(com.pusher.rest.Pusher server, Client alice, Client bob) throws Exception {
        ok(server.trigger("java-public", "hello", Map.of("text", "\"grüße\" 🚀")));
        ok(server.trigger(List.of("java-public", "private-java"), "multi", 1, bob.socketId()));
        ok(server.trigger(List.of(new Event("java-public", "hello", "batch"), new Event("private-java", "multi", "batch"))));
        for (Client c : List.of(alice, bob)) {
            c.wants("java-public", "event hello {\"text\":\"\\\"grüße\\\" 🚀\"} by null");
            if (c != bob) {
                c.wants("java-public", "event multi 1 by null");
                c.wants("private-java", "event multi 1 by null");
            }
            c.wants("java-public", "event hello \"batch\" by null");
            c.wants("private-java", "event multi \"batch\" by null");
        }
    }

    private static void clientEvent(Client alice, Client bob) throws Exception {
        alice.presence.trigger("client-typing", "{\"on\":true}");
        bob.wants("presence-java", "event client-typing {\"on\":true} by a");
        bob.presence.trigger("client-typing", "{\"on\":false}");
        alice.wants("presence-java", "event client-typing {\"on\":false} by b"); // and not her own
    }

    private static void encrypted(com.pusher.rest.Pusher server, Client alice) throws Exception {
        alice.pusher.subscribePrivateEncrypted("private-encrypted-java", alice, "sealed");
        alice.wants("private-encrypted-java", "subscribed");
        ok(server.trigger("private-encrypted-java", "sealed", Map.of("secret", "value")));
        alice.wants("private-encrypted-java", "event sealed {\"secret\":\"value\"} by null");
    }

    private static void signIn(com.pusher.rest.Pusher server, Client alice) throws Exception {
        alice.pusher.user().bind("for-you", alice);
        alice.pusher.signin();
        // The library calls nobody back when it is signed in.
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(TIMEOUT);
        while (alice.pusher.user().userId() == null && System.nanoTime() < deadline) {
            Thread.sleep(1);
        }
        same("id of the signed-in user", alice.pusher.user().userId(), "java-user");
        // Its trigger refuses the name of the user's channel, so this is a request of its own.
        ok(server.post("/events", "{\"name\":\"for-you\",\"channels\":[\"#server-to-user-java-user\"],\"data\":\"hi\"}"));
        alice.wants("#server-to-user-java-user", "event for-you hi by null");
    }

    private static void query(com.pusher.rest.Pusher server) throws Exception {
        Map<String, String> params = Map.of("filter_by_prefix", "presence-java", "info", "user_count");
        same("channels", get(server, "/channels", params),
                JsonParser.parseString("{\"channels\":{\"presence-java\":{\"user_count\":2}}}"));
        same("channels without match", get(server, "/channels", Map.of("filter_by_prefix", "java-nobody")),
                JsonParser.parseString("{\"channels\":{}}"));
        same("channel", get(server, "/channels/presence-java", Map.of("info", "user_count,subscription_count")),
                JsonParser.parseString("{\"occupied\":true,\"user_count\":2,\"subscription_count\":2}"));
        try (var forger = new com.pusher.rest.Pusher(APP_ID, KEY, SECRET + "x")) {
            forger.setHost(HOST + ":" + PORT);
            forger.setRequestTimeout(TIMEOUT * 1000);
            same("status with a wrong secret", forger.get("/channels").getHttpStatus(), 401);
        }
        Result large = server.trigger("java-public", "large", "x".repeat(10240)); // quotes make it 10,242 bytes
        same("status of 10,242 bytes of data", large.getHttpStatus(), 413);
    }

    private static JsonObject get(com.pusher.rest.Pusher server, String path, Map<String, String> params) throws Failure {
        Result result = server.get(path, params);
        ok(result);
        return JsonParser.parseString(result.getMessage()).getAsJsonObject();
    }

    private static void ok(Result result) throws Failure {
        if (result.getStatus() != Result.Status.SUCCESS) {
            throw new Failure("answered " + result.getHttpStatus() + " " + result.getMessage() + ", want success");
        }
    }

    private static void same(String what, Object got, Object want) throws Failure {
        if (!Objects.equals(got, want)) {
            throw new Failure(what + " is " + got + ", want " + want);
        }
    }

    private static String ids(Set<User> users) {
        return users.stream().map(User::getId).collect(Collectors.toCollection(TreeSet::new)).toString();
    }

    /**
     * One connection of the client library; what its callbacks say becomes lines in a queue for each channel, since between
     * channels there is no order to rely on.
     */
    private static class Client
            implements PresenceChannelEventListener, PrivateEncryptedChannelEventListener, ConnectionEventListener {
        private final Map<String, BlockingQueue<String>> seen = new ConcurrentHashMap<>();
        private final Pusher pusher;
        private PresenceChannel presence;

        Client(com.pusher.rest.Pusher server, String id, String name) throws Exception {
            PusherOptions options = new PusherOptions().setHost(HOST).setWsPort(Integer.parseInt(PORT)).setUseTLS(false);
            options.setChannelAuthorizer((channel, socketId) -> channel.startsWith("presence-")
                    ? server.authenticate(socketId, channel, new PresenceUser(id, Map.of("name", name)))
                    : server.authenticate(socketId, channel));
            options.setUserAuthenticator(Main::authenticateUser);
            pusher = new Pusher(KEY, options);
            pusher.connect(this, ConnectionState.CONNECTED);
            wants("", "connected");
        }

        String socketId() {
            return pusher.getConnection().getSocketId();
        }

        private BlockingQueue<String> seen(String channel) {
            return seen.computeIfAbsent(channel, c -> new LinkedBlockingQueue<>());
        }

        /** The next thing that happens on the channel must be this. */
        void wants(String channel, String want) throws Exception {
            String got = seen(channel).poll(TIMEOUT, TimeUnit.SECONDS);
            if (!want.equals(got)) {
                throw new Failure("seen on " + channel + ": " + got + ", want: " + want + ", errors: " + seen(""));
            }
        }

        /** Everything that happened has been waited for. */
        void wantsNothing() throws Failure {
            for (var entry : seen.entrySet()) {
                same("what else was seen on " + entry.getKey(), entry.getValue().toString(), "[]");
            }
        }

        @Override
        public void onConnectionStateChange(ConnectionStateChange change) {
            seen("").add("connected");
        }

        @Override
        public void onError(String message, String code, Exception e) {
            seen("").add("error " + code + " " + message + " " + e);
        }

        @Override
        public void onSubscriptionSucceeded(String channel) {
            seen(channel).add("subscribed");
        }

        @Override
        public void onAuthenticationFailure(String message, Exception e) {
            seen("").add("authentication failure " + message + " " + e);
        }

        @Override
        public void onDecryptionFailure(String event, String reason) {
            seen("").add("decryption failure of " + event + " " + reason);
        }

        @Override
        public void onUsersInformationReceived(String channel, Set<User> users) {
            seen(channel).add("users " + ids(users));
        }

        @Override
        public void userSubscribed(String channel, User user) {
            seen(channel).add("joined " + user.getId());
        }

        @Override
        public void userUnsubscribed(String channel, User user) {
            seen(channel).add("left " + user.getId());
        }

        @Override
        public void onEvent(PusherEvent e) {
            seen(e.getChannelName()).add("event " + e.getEventName() + " " + e.getData() + " by " + e.getUserId());
        }
    }

    /** The server library cannot sign users in, so this does what its siblings do. */
    private static String authenticateUser(String socketId) throws AuthenticationFailureException {
        String userData = "{\"id\":\"java-user\"}";
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(SECRET.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
            byte[] digest = mac.doFinal((socketId + "::user::" + userData).getBytes(StandardCharsets.UTF_8));
            String auth = KEY + ":" + java.util.HexFormat.of().formatHex(digest);
            return GSON.toJson(Map.of("auth", auth, "user_data", userData));
        } catch (Exception e) {
            throw new AuthenticationFailureException("cannot sign", e);
        }
    }
}
