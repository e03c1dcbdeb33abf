package homing.interop.ons;

import com.aliyun.openservices.ons.api.Message;
import com.aliyun.openservices.ons.api.ONSFactory;
import com.aliyun.openservices.ons.api.OnExceptionContext;
import com.aliyun.openservices.ons.api.Producer;
import com.aliyun.openservices.ons.api.PropertyKeyConst;
import com.aliyun.openservices.ons.api.SendCallback;
import com.aliyun.openservices.ons.api.SendResult;
import com.aliyun.openservices.ons.api.order.OrderProducer;
import com.aliyun.openservices.ons.api.transaction.TransactionProducer;
import com.aliyun.openservices.ons.api.transaction.TransactionStatus;
import com.aliyun.openservices.shade.com.alibaba.rocketmq.client.exception.MQBrokerException;
import homing.interop.line.Driver;
import homing.interop.line.Sdk;
import java.io.IOException;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;

/**
 * com.aliyun.openservices:ons-client. It demands an access key and a secret key. Where it has tried again, it hides the
 * server's code.
 */
public final class Ons implements Sdk {
  private Properties settings;
  private Producer producer;
  private OrderProducer ordered; // null before the first
  private TransactionProducer transactions; // null before the first

  public static void main(String[] args) throws IOException {
    Driver.run(new Ons());
  }

  @Override
  public List<String> modes() {
    return List.of("sync", "async", "oneway", "delay", "ordered", "transaction");
  }

  @Override
  public boolean tlsByDefault() {
    return false;
  }

  @Override
  public void start(Start start) {
    if (start.tls()) {
      System.setProperty("tls.enable", "true"); // any certificate will do: tls.test.mode.enable is on by default
    }
    settings = new Properties();
    settings.setProperty(PropertyKeyConst.NAMESRV_ADDR, start.endpoint());
    settings.setProperty(PropertyKeyConst.AccessKey, start.accessKey());
    settings.setProperty(PropertyKeyConst.SecretKey, start.secretKey());
    settings.setProperty(PropertyKeyConst.GROUP_ID, start.group());
    producer = ONSFactory.createProducer(settings);
    producer.start();
  }

  @Override
  public CompletableFuture<Receipt> send(Send send) {
    Message message = message(send);
    switch (send.mode()) {
      case "async":
        return async(message);
      case "oneway":
        producer.sendOneway(message);
        return CompletableFuture.completedFuture(new Receipt("", List.of(message.getMsgID())));
      case "delay":
        message.setStartDeliverTime(deliverAt(send));
        return sent(producer.send(message));
      case "ordered":
        return sent(ordered().send(message, send.orderKey()));
      case "transaction":
        return sent(transactions().send(message, (m, arg) -> TransactionStatus.CommitTransaction, null));
      default:
        return sent(producer.send(message));
    }
  }

  private CompletableFuture<Receipt> async(Message message) {
    CompletableFuture<Receipt> answer = new CompletableFuture<>();
    producer.sendAsync(
        message,
        new SendCallback() {
          @Override
          public void onSuccess(SendResult result) {
            answer.complete(receipt(result));
          }

          @Override
          public void onException(OnExceptionContext context) {
            answer.completeExceptionally(context.getException());
          }
        });
    return answer;
  }

  private static CompletableFuture<Receipt> sent(SendResult result) {
    return CompletableFuture.completedFuture(receipt(result));
  }

  /** A status other than SEND_OK is not shown by this SDK. */
  private static Receipt receipt(SendResult result) {
    return new Receipt("SEND_OK", List.of(result.getMessageId()));
  }

  /** Unix time in milliseconds. */
  private static long deliverAt(Send send) {
    if (send.delayLevel() > 0) {
      throw new UnsupportedOperationException("this SDK has no delay levels");
    }
    return System.currentTimeMillis() + send.delayMs();
  }

  private static Message message(Send send) {
    Message message = new Message(send.topic(), send.tag() == null ? "" : send.tag(), send.bytes());
    if (send.keys() != null && !send.keys().isEmpty()) {
      message.setKey(String.join(" ", send.keys()));
    }
    if (send.properties() != null) {
      send.properties().forEach(message::putUserProperties);
    }
    return message;
  }

  private OrderProducer ordered() {
    if (ordered == null) {
      OrderProducer p = ONSFactory.createOrderProducer(settings);
      p.start();
      ordered = p;
    }
    return ordered;
  }

  private TransactionProducer transactions() {
    if (transactions == null) {
      TransactionProducer p = ONSFactory.createTransactionProducer(settings, m -> TransactionStatus.CommitTransaction);
      p.start();
      transactions = p;
    }
    return transactions;
  }

  @Override
  public int code(Throwable e) {
    return e instanceof MQBrokerException broker ? broker.getResponseCode() : 0;
  }

  @Override
  public void close() {
    if (ordered != null) {
      ordered.shutdown();
    }
    if (transactions != null) {
      transactions.shutdown();
    }
    producer.shutdown();
  }
}
