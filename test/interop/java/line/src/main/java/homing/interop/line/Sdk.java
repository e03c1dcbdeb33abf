package homing.interop.line;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** One SDK, as {@link Driver} needs it. Its methods are called one at a time. */
public interface Sdk {
  /**
   * The first line. {@code accessKey} is empty for no credentials; {@code group} is the producer group and {@code topic} the
   * parent topic, which an SDK may want to know beforehand.
   */
  record Start(String endpoint, String accessKey, String secretKey, boolean tls, String group, String topic) {}

  /**
   * One send. {@code delayMs} is in milliseconds from now; {@code count} is the number of messages of a batch. Any
   * reference may be null, and a number 0, where the line does not have it.
   */
  record Send(
      String mode,
      String topic,
      String tag,
      List<String> keys,
      String body,
      int fill,
      Map<String, String> properties,
      long delayMs,
      int delayLevel,
      String orderKey,
      int count) {

    /** The body in UTF-8, with its filling. */
    public byte[] bytes() {
      return text().getBytes(StandardCharsets.UTF_8);
    }

    /** The body of message {@code i} of a batch. */
    public byte[] bytes(int i) {
      return (text() + "-" + i).getBytes(StandardCharsets.UTF_8);
    }

    private String text() {
      return (body == null ? "" : body) + "x".repeat(fill);
    }
  }

  /** What the SDK returned: the name of its status, and one ID for each message. IDs are empty where the SDK tells none. */
  record Receipt(String status, List<String> messageIds) {}

  /** The modes of {@link Send} that the SDK has. */
  List<String> modes();

  /** Whether the SDK uses TLS unless told otherwise. */
  boolean tlsByDefault();

  /** Starts the producer with the SDK's defaults. No class of the SDK was initialized before: system properties still count. */
  void start(Start start) throws Exception;

  /**
   * Sends in one of {@link #modes}. Returns after the SDK's call: with a finished future for everything but async.
   *
   * @throws Exception what the SDK threw, or {@link UnsupportedOperationException} for what it does not have
   */
  CompletableFuture<Receipt> send(Send send) throws Exception;

  /** The server's code in one exception, its causes left out; 0 if it has none. */
  int code(Throwable e);

  /** Shuts all producers down. The last call. */
  void close() throws Exception;
}
