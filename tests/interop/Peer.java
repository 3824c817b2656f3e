/* A peer of the tests that speaks baidu_std and JSON over HTTP by Baidu's own brpc-java: a client of both daemons, and
 * a server that stands for each of them and for a TabletServer. It decides nothing: it reads commands, a JSON object a
 * line, from standard input, and answers each with one line. tests/e2e/test_brpc_java.py says what is right. */

import com.baidu.brpc.RpcContext;
import com.baidu.brpc.client.BrpcProxy;
import com.baidu.brpc.client.RpcCallback;
import com.baidu.brpc.client.RpcClient;
import com.baidu.brpc.client.RpcClientOptions;
import com.baidu.brpc.client.channel.ChannelType;
import com.baidu.brpc.client.channel.Endpoint;
import com.baidu.brpc.exceptions.RpcException;
import com.baidu.brpc.protocol.BrpcMeta;
import com.baidu.brpc.protocol.Options;
import com.baidu.brpc.server.RpcServer;
import com.baidu.brpc.server.RpcServerOptions;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import io.netty.buffer.ByteBuf;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import openmldb.api.Tablet.GetTableSchemaRequest;
import openmldb.api.Tablet.GetTableSchemaResponse;
import openmldb.api.Tablet.GetTableStatusRequest;
import openmldb.api.Tablet.GetTableStatusResponse;
import openmldb.datasync.DataSync.AddSyncTaskRequest;
import openmldb.datasync.DataSync.CreateSyncTaskRequest;
import openmldb.datasync.DataSync.DeleteSyncTaskRequest;
import openmldb.datasync.DataSync.GeneralResponse;
import openmldb.datasync.DataSync.SendDataRequest;
import openmldb.datasync.DataSync.SendDataResponse;
import openmldb.datasync.DataSync.TaskStatusRequest;
import openmldb.datasync.DataSync.TaskStatusResponse;
import openmldb.datasync.DataSync.Wrong;

public class Peer {
    private static final String SYNC_TOOL = "openmldb.datasync.SyncTool";
    private static final String COLLECTOR = "openmldb.datasync.DataCollector";
    private static final String TABLET = "openmldb.api.TabletServer";

    // ---- services, as brpc-java wants them; what ends in Async is the same with a callback ----

    public interface Collector {
        @BrpcMeta(serviceName = COLLECTOR, methodName = "AddSyncTask")
        GeneralResponse addSyncTask(AddSyncTaskRequest request);
    }

    public interface CollectorAsync extends Collector {
        Future<GeneralResponse> addSyncTask(AddSyncTaskRequest request, RpcCallback<GeneralResponse> callback);
    }

    /** By the short name, as OpenMLDB's SyncTool calls it. */
    public interface ShortCollector {
        @BrpcMeta(serviceName = "DataCollector", methodName = "AddSyncTask")
        GeneralResponse addSyncTask(AddSyncTaskRequest request);
    }

    public interface SyncTool {
        @BrpcMeta(serviceName = SYNC_TOOL, methodName = "CreateSyncTask")
        GeneralResponse createSyncTask(CreateSyncTaskRequest request);

        @BrpcMeta(serviceName = SYNC_TOOL, methodName = "DeleteSyncTask")
        GeneralResponse deleteSyncTask(DeleteSyncTaskRequest request);

        @BrpcMeta(serviceName = SYNC_TOOL, methodName = "TaskStatus")
        TaskStatusResponse taskStatus(TaskStatusRequest request);

        @BrpcMeta(serviceName = SYNC_TOOL, methodName = "SendData")
        SendDataResponse sendData(SendDataRequest request);
    }

    public interface SyncToolAsync extends SyncTool {
        Future<GeneralResponse> createSyncTask(CreateSyncTaskRequest request, RpcCallback<GeneralResponse> callback);

        Future<GeneralResponse> deleteSyncTask(DeleteSyncTaskRequest request, RpcCallback<GeneralResponse> callback);

        Future<TaskStatusResponse> taskStatus(TaskStatusRequest request, RpcCallback<TaskStatusResponse> callback);

        Future<SendDataResponse> sendData(SendDataRequest request, RpcCallback<SendDataResponse> callback);
    }

    public interface Tablet {
        @BrpcMeta(serviceName = TABLET, methodName = "GetTableStatus")
        GetTableStatusResponse getTableStatus(GetTableStatusRequest request);

        @BrpcMeta(serviceName = TABLET, methodName = "GetTableSchema")
        GetTableSchemaResponse getTableSchema(GetTableSchemaRequest request);
    }

    /** What nobody serves, or serves another way. */
    public interface Mistakes {
        @BrpcMeta(serviceName = "Nobody", methodName = "Nothing")
        GeneralResponse unknownShortService(TaskStatusRequest request);

        @BrpcMeta(serviceName = "openmldb.datasync.Nobody", methodName = "Nothing")
        GeneralResponse unknownService(TaskStatusRequest request);

        @BrpcMeta(serviceName = SYNC_TOOL, methodName = "Nothing")
        GeneralResponse unknownMethod(TaskStatusRequest request);

        @BrpcMeta(serviceName = COLLECTOR, methodName = "Nothing")
        GeneralResponse unknownCollectorMethod(TaskStatusRequest request);

        @BrpcMeta(serviceName = SYNC_TOOL, methodName = "SendData")
        SendDataResponse wrongSendData(Wrong request);

        @BrpcMeta(serviceName = COLLECTOR, methodName = "AddSyncTask")
        GeneralResponse wrongAddSyncTask(Wrong request);
    }

    /** What a client calls a method by, and how. */
    private record Method(Class<?> service, String name, Message.Builder request) {}

    private static final Map<String, Method> METHODS = new HashMap<>();

    private static void method(Class<?> service, String name, Message request) {
        METHODS.put(service.getSimpleName().replace("Async", "") + "." + name,
                new Method(service, name, request.newBuilderForType()));
    }

    static {
        method(CollectorAsync.class, "addSyncTask", AddSyncTaskRequest.getDefaultInstance());
        method(ShortCollector.class, "addSyncTask", AddSyncTaskRequest.getDefaultInstance());
        method(SyncToolAsync.class, "createSyncTask", CreateSyncTaskRequest.getDefaultInstance());
        method(SyncToolAsync.class, "deleteSyncTask", DeleteSyncTaskRequest.getDefaultInstance());
        method(SyncToolAsync.class, "taskStatus", TaskStatusRequest.getDefaultInstance());
        method(SyncToolAsync.class, "sendData", SendDataRequest.getDefaultInstance());
        method(Tablet.class, "getTableStatus", GetTableStatusRequest.getDefaultInstance());
        method(Tablet.class, "getTableSchema", GetTableSchemaRequest.getDefaultInstance());
        for (String name : Arrays.asList(
                "unknownShortService", "unknownService", "unknownMethod", "unknownCollectorMethod"))
            method(Mistakes.class, name, TaskStatusRequest.getDefaultInstance());
        method(Mistakes.class, "wrongSendData", Wrong.getDefaultInstance());
        method(Mistakes.class, "wrongAddSyncTask", Wrong.getDefaultInstance());
    }

    // ---- the client ----

    private static final Map<String, RpcClient> CLIENTS = new HashMap<>();
    private static final Map<String, Object> PROXIES = new HashMap<>();

    private static <T> T proxy(String endpoint, String protocol, String compress, int timeout, Class<T> service) {
        String key = endpoint + " " + protocol + " " + compress + " " + timeout;
        // A client serves one interface.
        Object found;
        synchronized (PROXIES) {
            found = PROXIES.computeIfAbsent(key + " " + service.getName(), k -> {
                RpcClientOptions options = new RpcClientOptions();
                boolean http = protocol.equals("http");
                options.setProtocolType(http ? Options.ProtocolType.PROTOCOL_HTTP_JSON_VALUE
                        : Options.ProtocolType.PROTOCOL_BAIDU_STD_VALUE);
                options.setChannelType(http ? ChannelType.POOLED_CONNECTION : ChannelType.SINGLE_CONNECTION);
                options.setCompressType(Options.CompressType.valueOf("COMPRESS_TYPE_" + compress));
                options.setConnectTimeoutMillis(2000);
                options.setReadTimeoutMillis(timeout);
                options.setWriteTimeoutMillis(timeout);
                options.setMaxTryTimes(1);
                int colon = endpoint.lastIndexOf(':');
                Endpoint to = new Endpoint(endpoint.substring(0, colon),
                        Integer.parseInt(endpoint.substring(colon + 1)));
                RpcClient client = new RpcClient(to, options);
                CLIENTS.put(k, client);
                return BrpcProxy.getProxy(client, service);
            });
        }
        return service.cast(found);
    }

    private static <T> T proxy(String endpoint, Class<T> service) {
        return proxy(endpoint, "baidu_std", "NONE", 20000, service);
    }

    private static JsonObject failure(Throwable e) {
        JsonObject out = new JsonObject();
        Throwable cause = e;
        while (cause.getCause() != null && !(cause instanceof RpcException)) cause = cause.getCause();
        out.addProperty("error", cause.getMessage());
        out.addProperty("code", cause instanceof RpcException ? ((RpcException) cause).getCode() : -1);
        return out;
    }

    private static JsonObject success(Object response) throws Exception {
        JsonObject out = new JsonObject();
        String json = JsonFormat.printer().preservingProtoFieldNames().print((Message) response);
        out.add("response", JsonParser.parseString(json));
        out.addProperty("bytes", base64(((Message) response).toByteArray()));
        return out;
    }

    private static Message request(Method method, JsonObject fields) throws Exception {
        Message.Builder builder = method.request.getDefaultInstanceForType().newBuilderForType();
        JsonFormat.parser().merge(fields.toString(), builder);
        return builder.build();
    }

    private static String text(JsonObject o, String key, String otherwise) {
        return o.has(key) ? o.get(key).getAsString() : otherwise;
    }

    private static int number(JsonObject o, String key, int otherwise) {
        return o.has(key) ? o.get(key).getAsInt() : otherwise;
    }

    private static void attach(JsonObject command) {
        if (command.has("attachment"))
            RpcContext.getContext().setRequestBinaryAttachment(
                    Base64.getDecoder().decode(command.get("attachment").getAsString()));
    }

    private static Object proxy(JsonObject command, Method method) {
        return proxy(text(command, "endpoint", ""), text(command, "protocol", "baidu_std"),
                text(command, "compress", "NONE"), number(command, "timeout_ms", 20000), method.service);
    }

    /** {"op": "call", "endpoint", "method", "fields", ...}: one call, and its answer. */
    private static JsonObject call(JsonObject command) throws Exception {
        Method method = METHODS.get(text(command, "method", ""));
        Message request = request(method, command.getAsJsonObject("fields"));
        Object proxy = proxy(command, method);
        attach(command);
        try {
            java.lang.reflect.Method java = method.service.getMethod(method.name, request.getClass());
            return success(java.invoke(proxy, request));
        } catch (Exception e) {
            return failure(e);
        } finally {
            RpcContext.removeContext();
        }
    }

    private static CountDownLatch flood;
    private static JsonObject[] flooded;

    /** {"op": "flood", as call, "times"}: as many calls over one connection, none waited for; `pid` counts them. */
    private static JsonObject flood(JsonObject command) throws Exception {
        Method method = METHODS.get(text(command, "method", ""));
        int times = number(command, "times", 1);
        Object proxy = proxy(command, method);
        CountDownLatch latch = new CountDownLatch(times);
        JsonObject[] answers = new JsonObject[times];
        for (int i = 0; i < times; i++) {
            JsonObject fields = command.getAsJsonObject("fields");
            if (method.request.getDescriptorForType().findFieldByName("pid") != null) fields.addProperty("pid", i);
            Message request = request(method, fields);
            int at = i;
            RpcCallback<Message> callback = new RpcCallback<>() {
                @Override
                public void success(Message response) {
                    try {
                        answers[at] = Peer.success(response);
                    } catch (Exception e) {
                        answers[at] = failure(e);
                    }
                    latch.countDown();
                }

                @Override
                public void fail(Throwable e) {
                    answers[at] = failure(e);
                    latch.countDown();
                }
            };
            attach(command);
            method.service.getMethod(method.name, request.getClass(), RpcCallback.class)
                    .invoke(proxy, request, callback);
            RpcContext.removeContext();
        }
        flood = latch;
        flooded = answers;
        return new JsonObject();
    }

    /** {"op": "flooded", "wait_ms"}: how many are open after that time at most, and all answers if none is. */
    private static JsonObject flooded(JsonObject command) throws Exception {
        flood.await(number(command, "wait_ms", 0), TimeUnit.MILLISECONDS);
        JsonObject out = new JsonObject();
        long open = flood.getCount();
        out.addProperty("open", open);
        JsonArray answers = new JsonArray();
        if (open == 0) Arrays.stream(flooded).forEach(answers::add);
        out.add("answers", answers);
        return out;
    }

    // ---- the server ----

    private static final List<JsonObject> RECEIVED = new ArrayList<>();
    private static final Map<String, ArrayDeque<JsonObject>> PLANS = new HashMap<>();
    private static final Map<String, CountDownLatch> HELD = new HashMap<>();
    private static final Map<String, String> RELAYS = new HashMap<>();
    private static String own;

    private static String base64(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }

    private static byte[] attachment() {
        ByteBuf rows = RpcContext.isSet() ? RpcContext.getContext().getRequestBinaryAttachment() : null;
        byte[] out = new byte[rows == null ? 0 : rows.readableBytes()];
        if (rows != null) rows.getBytes(rows.readerIndex(), out);
        return out;
    }

    /** Notes a request, waits or throws if that is planned, and returns the planned answer, or null. */
    private static JsonObject receive(String name, Message request, byte[] rows) {
        JsonObject note = new JsonObject();
        note.addProperty("method", name);
        note.addProperty("bytes", base64(request.toByteArray()));
        note.addProperty("attachment", base64(rows));
        CountDownLatch held;
        JsonObject plan;
        synchronized (RECEIVED) {
            RECEIVED.add(note);
            ArrayDeque<JsonObject> plans = PLANS.get(name);
            plan = plans == null ? null : plans.poll();
            held = HELD.get(name);
        }
        try {
            if (held != null) held.await();
            if (plan != null) Thread.sleep(number(plan, "delay_ms", 0));
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        if (plan != null && plan.has("throw")) throw new RuntimeException(plan.get("throw").getAsString());
        return plan != null && plan.has("response") ? plan.getAsJsonObject("response") : null;
    }

    @SuppressWarnings("unchecked")
    private static <T extends Message> T planned(JsonObject plan, T otherwise) {
        if (plan == null) return otherwise;
        try {
            Message.Builder builder = otherwise.newBuilderForType();
            JsonFormat.parser().merge(plan.toString(), builder);
            return (T) builder.build();
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    private static synchronized String relay(String role) {
        return RELAYS.get(role);
    }

    private static GeneralResponse ok() {
        return GeneralResponse.newBuilder().setCode(0).build();
    }

    private static GeneralResponse added(AddSyncTaskRequest request) {
        JsonObject plan = receive("AddSyncTask", request, attachment());
        String to = relay("collector");
        if (plan != null || to == null) return planned(plan, ok());
        AddSyncTaskRequest.Builder builder = request.toBuilder().setDesEndpoint(own);
        if (relay("tablet") != null) builder.setTabletEndpoint(own);
        return proxy(to, Collector.class).addSyncTask(builder.build());
    }

    public static class CollectorService implements Collector {
        @Override
        public GeneralResponse addSyncTask(AddSyncTaskRequest request) {
            return added(request);
        }
    }

    public static class ShortCollectorService implements ShortCollector {
        @Override
        public GeneralResponse addSyncTask(AddSyncTaskRequest request) {
            return added(request);
        }
    }

    public static class SyncToolService implements SyncTool {
        @Override
        public GeneralResponse createSyncTask(CreateSyncTaskRequest request) {
            return planned(receive("CreateSyncTask", request, attachment()), ok());
        }

        @Override
        public GeneralResponse deleteSyncTask(DeleteSyncTaskRequest request) {
            return planned(receive("DeleteSyncTask", request, attachment()), ok());
        }

        @Override
        public TaskStatusResponse taskStatus(TaskStatusRequest request) {
            return planned(receive("TaskStatus", request, attachment()),
                    TaskStatusResponse.newBuilder().setResponse(ok()).build());
        }

        @Override
        public SendDataResponse sendData(SendDataRequest request) {
            byte[] rows = attachment();
            JsonObject plan = receive("SendData", request, rows);
            String to = relay("synctool");
            if (plan != null || to == null)
                return planned(plan, SendDataResponse.newBuilder().setResponse(ok()).build());
            RpcContext.removeContext();
            if (rows.length > 0) RpcContext.getContext().setRequestBinaryAttachment(rows);
            try {
                return proxy(to, SyncToolAsync.class).sendData(request);
            } finally {
                RpcContext.removeContext();
            }
        }
    }

    public static class TabletService implements Tablet {
        @Override
        public GetTableStatusResponse getTableStatus(GetTableStatusRequest request) {
            JsonObject plan = receive("GetTableStatus", request, attachment());
            String to = relay("tablet");
            if (plan != null || to == null)
                return planned(plan, GetTableStatusResponse.newBuilder().setCode(0).build());
            return proxy(to, Tablet.class).getTableStatus(request);
        }

        @Override
        public GetTableSchemaResponse getTableSchema(GetTableSchemaRequest request) {
            JsonObject plan = receive("GetTableSchema", request, attachment());
            String to = relay("tablet");
            if (plan != null || to == null)
                return planned(plan, GetTableSchemaResponse.newBuilder().setCode(100).build());
            return proxy(to, Tablet.class).getTableSchema(request);
        }
    }

    private static void serve(int port) {
        RpcServerOptions options = new RpcServerOptions();
        options.setIoThreadNum(2);
        options.setWorkThreadNum(16);
        options.setReceiveBufferSize(64 << 20);
        options.setSendBufferSize(64 << 20);
        RpcServer server = new RpcServer("127.0.0.1", port, options);
        server.registerService(new CollectorService());
        server.registerService(new ShortCollectorService());
        server.registerService(new SyncToolService());
        server.registerService(new TabletService());
        server.start();
        own = "127.0.0.1:" + port;
    }

    // ---- commands ----

    private static JsonObject command(JsonObject command) throws Exception {
        JsonObject out = new JsonObject();
        String name = text(command, "method", "");
        switch (text(command, "op", "")) {
            case "call":
                return call(command);
            case "flood":
                return flood(command);
            case "flooded":
                return flooded(command);
            case "plan": // the answer to the next call of a method that has none planned yet
                synchronized (RECEIVED) {
                    PLANS.computeIfAbsent(name, k -> new ArrayDeque<>()).add(command.getAsJsonObject("answer"));
                }
                return out;
            case "hold": // calls of a method aren't answered until "release"
                synchronized (RECEIVED) {
                    HELD.put(name, new CountDownLatch(1));
                }
                return out;
            case "release":
                synchronized (RECEIVED) {
                    HELD.remove(name).countDown();
                }
                return out;
            case "relay": // calls go on to another server
                synchronized (Peer.class) {
                    RELAYS.put(text(command, "role", ""), text(command, "endpoint", ""));
                }
                return out;
            case "received": // and forgotten
                JsonArray received = new JsonArray();
                synchronized (RECEIVED) {
                    RECEIVED.forEach(received::add);
                    RECEIVED.clear();
                }
                out.add("received", received);
                return out;
            case "reset":
                synchronized (RECEIVED) {
                    RECEIVED.clear();
                    PLANS.clear();
                    HELD.values().forEach(CountDownLatch::countDown);
                    HELD.clear();
                }
                synchronized (Peer.class) {
                    RELAYS.clear();
                }
                return out;
            default:
                throw new IllegalArgumentException("unknown: " + command);
        }
    }

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err); // libraries may print what they like
        serve(Integer.parseInt(args[0]));
        answers.println("ready");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonObject answer;
            try {
                answer = command(JsonParser.parseString(line).getAsJsonObject());
            } catch (Exception e) {
                e.printStackTrace();
                answer = new JsonObject();
                answer.addProperty("failed", e.toString());
            }
            answers.println(answer);
            answers.flush();
        }
        System.exit(0); // threads of both sides would stay
    }
}
