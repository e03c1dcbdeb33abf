package homing.interop.line;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Reads requests from standard input, lets an {@link Sdk} do them, and writes answers to standard output: JSON, one object
 * per line. Requests are done one after the other; only the answer of an async send may come after later ones.
 */
public final class Driver {
  private static final Gson GSON = new GsonBuilder().disableHtmlEscaping().create();
  private static final long CLOSE_SECONDS = 10; // for what is pending, and again for the SDK

  private final Sdk sdk;
  private final PrintStream out;
  private final Set<CompletableFuture<?>> pending = ConcurrentHashMap.newKeySet();

  private Driver(Sdk sdk, PrintStream out) {
    this.sdk = sdk;
    this.out = out;
  }

  /** Runs until "close" or the end of the input, and ends the process: SDKs leave threads behind. */
  public static void run(Sdk sdk) throws IOException {
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    System.setOut(System.err); // what an SDK prints is no answer
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    Driver driver = new Driver(sdk, out);
    System.exit(driver.start(in.readLine()) && driver.serve(in) ? 0 : 1);
  }

  private boolean start(String line) {
    try {
      Sdk.Start start = GSON.fromJson(line, Sdk.Start.class);
      if (start == null) {
        throw new IOException("no first line");
      }
      long t0 = System.nanoTime();
      sdk.start(start);
      double ms = since(t0);
      Package p = sdk.getClass().getPackage();
      say(
          fields(
              "event", "started",
              "sdk", p.getImplementationTitle() + " " + p.getImplementationVersion() + " (Java)",
              "modes", sdk.modes(),
              "tls", true,
              "tlsByDefault", sdk.tlsByDefault(),
              "ms", ms));
      return true;
    } catch (Throwable e) {
      say(fields("event", "failed", "code", code(e), "error", text(e)));
      return false;
    }
  }

  private boolean serve(BufferedReader in) throws IOException {
    for (String line; (line = in.readLine()) != null; ) {
      JsonObject request = JsonParser.parseString(line).getAsJsonObject();
      long id = request.get("id").getAsLong();
      switch (request.get("op").getAsString()) {
        case "send" -> send(id, GSON.fromJson(request, Sdk.Send.class));
        case "series" -> series(id, GSON.fromJson(request, Series.class));
        case "close" -> {
          return close(id);
        }
        default -> answer(id, failure(new IllegalArgumentException("unknown op"), 0));
      }
    }
    return close(0);
  }

  private void send(long id, Sdk.Send send) {
    long t0 = System.nanoTime();
    CompletableFuture<Sdk.Receipt> sent = attempt(send);
    CompletableFuture<Void> answered =
        sent.handle((receipt, e) -> e == null ? success(receipt, since(t0)) : failure(e, since(t0)))
            .thenAccept(fields -> answer(id, fields));
    pending.add(answered);
    answered.whenComplete((ok, e) -> pending.remove(answered));
  }

  /** Sends; what the SDK throws is in the future. */
  private CompletableFuture<Sdk.Receipt> attempt(Sdk.Send send) {
    try {
      if (!sdk.modes().contains(send.mode())) {
        throw new UnsupportedOperationException("this SDK has no mode " + send.mode());
      }
      return sdk.send(send);
    } catch (Throwable e) {
      return CompletableFuture.failedFuture(e);
    }
  }

  private record Series(String topic, int count, Map<String, String> properties, long everyMs) {}

  private void series(long id, Series series) {
    List<Double> ms = new ArrayList<>();
    try {
      for (int i = 0; i < series.count(); i++) {
        String now = Long.toString(ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()));
        Sdk.Send send =
            new Sdk.Send("sync", series.topic(), null, null, now, 0, series.properties(), 0, 0, null, 1);
        long t0 = System.nanoTime();
        sdk.send(send).get();
        double took = since(t0);
        ms.add(took);
        pause(series.everyMs() - took);
      }
      answer(id, fields("ok", true, "ms", ms));
    } catch (Throwable e) {
      Map<String, Object> fields = failure(e, 0);
      fields.put("ms", ms);
      answer(id, fields);
    }
  }

  private static void pause(double ms) throws InterruptedException {
    if (ms > 0) {
      TimeUnit.NANOSECONDS.sleep((long) (ms * 1e6));
    }
  }

  /**
   * Waits for the answers of async sends, and shuts down; an SDK that hangs is a failure. Answers only a request: id is 0 at
   * the end of the input.
   */
  private boolean close(long id) {
    Map<String, Object> fields = fields("ok", true);
    try {
      CompletableFuture.allOf(pending.toArray(CompletableFuture[]::new)).get(CLOSE_SECONDS, TimeUnit.SECONDS);
      CompletableFuture.runAsync(this::closeSdk).get(CLOSE_SECONDS, TimeUnit.SECONDS);
    } catch (TimeoutException e) {
      fields = failure(new TimeoutException("not shut down after " + CLOSE_SECONDS + " s"), 0);
    } catch (Throwable e) {
      fields = failure(e, 0);
    }
    if (id != 0) {
      answer(id, fields);
    }
    return Boolean.TRUE.equals(fields.get("ok"));
  }

  private void closeSdk() {
    try {
      sdk.close();
    } catch (Exception e) {
      throw new CompletionException(e);
    }
  }

  private Map<String, Object> success(Sdk.Receipt receipt, double ms) {
    return fields(
        "ok", true,
        "status", receipt.status(),
        "messageId", String.join(",", receipt.messageIds()),
        "messageIds", receipt.messageIds(),
        "ms", ms);
  }

  private Map<String, Object> failure(Throwable e, double ms) {
    return fields("ok", false, "code", code(e), "error", text(e), "ms", ms);
  }

  /** The first code along the causes. */
  private int code(Throwable e) {
    int code = 0;
    for (Throwable t = e; t != null && code == 0; t = t.getCause()) {
      code = sdk.code(t);
    }
    return code;
  }

  /** The exception and its causes. */
  private static String text(Throwable e) {
    StringBuilder text = new StringBuilder(e.toString());
    for (Throwable t = e.getCause(); t != null; t = t.getCause()) {
      text.append("; caused by ").append(t);
    }
    return text.toString();
  }

  private static double since(long nanos) {
    return (System.nanoTime() - nanos) / 1e6;
  }

  private static Map<String, Object> fields(Object... pairs) {
    Map<String, Object> fields = new LinkedHashMap<>();
    for (int i = 0; i < pairs.length; i += 2) {
      fields.put((String) pairs[i], pairs[i + 1]);
    }
    return fields;
  }

  private void answer(long id, Map<String, Object> fields) {
    Map<String, Object> line = fields("id", id);
    line.putAll(fields);
    say(line);
  }

  private void say(Map<String, Object> line) {
    synchronized (out) {
      out.println(GSON.toJson(line));
      out.flush();
    }
  }
}
