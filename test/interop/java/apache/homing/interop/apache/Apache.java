package homing.interop.apache;

import homing.interop.line.Driver;
import homing.interop.line.Sdk;
import java.io.IOException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.rocketmq.acl.common.AclClientRPCHook;
import org.apache.rocketmq.acl.common.SessionCredentials;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.RPCHook;

/** org.apache.rocketmq:rocketmq-client, 4.9 and 5.x. */
public final class Apache implements Sdk {
  private Start start;
  private DefaultMQProducer producer;
  private TransactionMQProducer transactions; // null before the first

  public static void main(String[] args) throws IOException {
    Driver.run(new Apache());
  }

  @Override
  public List<String> modes() {
    return List.of("sync", "async", "oneway", "batch", "delay", "ordered", "transaction");
  }

  @Override
  public boolean tlsByDefault() {
    return false;
  }

  @Override
  public void start(Start start) throws MQClientException {
    if (start.tls()) {
      System.setProperty("tls.enable", "true"); // any certificate will do: tls.test.mode.enable is on by default
    }
    this.start = start;
    producer = new DefaultMQProducer(start.group(), hook());
    producer.setNamesrvAddr(start.endpoint());
    producer.start();
  }

  private RPCHook hook() {
    if (start.accessKey().isEmpty()) {
      return null;
    }
    return new AclClientRPCHook(new SessionCredentials(start.accessKey(), start.secretKey()));
  }

  @Override
  public CompletableFuture<Receipt> send(Send send) throws Exception {
    switch (send.mode()) {
      case "async":
        return async(message(send, send.bytes()));
      case "oneway":
        producer.sendOneway(message(send, send.bytes()));
        return CompletableFuture.completedFuture(new Receipt("", List.of()));
      case "batch":
        return sent(producer.send(batch(send)));
      case "delay":
        return sent(producer.send(delayed(send)));
      case "ordered":
        return sent(producer.send(message(send, send.bytes()), new SelectMessageQueueByHash(), send.orderKey()));
      case "transaction":
        return sent(transactions().sendMessageInTransaction(message(send, send.bytes()), null));
      default:
        return sent(producer.send(message(send, send.bytes())));
    }
  }

  private CompletableFuture<Receipt> async(Message message) throws Exception {
    CompletableFuture<Receipt> answer = new CompletableFuture<>();
    producer.send(
        message,
        new SendCallback() {
          @Override
          public void onSuccess(SendResult result) {
            answer.complete(receipt(result));
          }

          @Override
          public void onException(Throwable e) {
            answer.completeExceptionally(e);
          }
        });
    return answer;
  }

  private static CompletableFuture<Receipt> sent(SendResult result) {
    return CompletableFuture.completedFuture(receipt(result));
  }

  /** The ID of a batch is that of its messages, with commas. */
  private static Receipt receipt(SendResult result) {
    return new Receipt(result.getSendStatus().name(), List.of(result.getMsgId().split(",")));
  }

  private static List<Message> batch(Send send) {
    List<Message> messages = new ArrayList<>();
    for (int i = 0; i < send.count(); i++) {
      messages.add(message(send, send.bytes(i)));
    }
    return messages;
  }

  private static Message delayed(Send send) throws ReflectiveOperationException {
    Message message = message(send, send.bytes());
    if (send.delayLevel() > 0) {
      message.setDelayTimeLevel(send.delayLevel());
      return message;
    }
    timer().invoke(message, send.delayMs());
    return message;
  }

  /** Message.setDelayTimeMs, which 5.0 brought. */
  private static Method timer() {
    try {
      return Message.class.getMethod("setDelayTimeMs", long.class);
    } catch (NoSuchMethodException e) {
      throw new UnsupportedOperationException("this SDK has delay levels only", e);
    }
  }

  private static Message message(Send send, byte[] body) {
    Message message = new Message(send.topic(), body);
    if (send.tag() != null && !send.tag().isEmpty()) {
      message.setTags(send.tag());
    }
    if (send.keys() != null && !send.keys().isEmpty()) {
      message.setKeys(send.keys());
    }
    if (send.properties() != null) {
      send.properties().forEach(message::putUserProperty);
    }
    return message;
  }

  /** A producer of its own, in the same group, that commits. */
  private TransactionMQProducer transactions() throws MQClientException {
    if (transactions == null) {
      TransactionMQProducer p = new TransactionMQProducer(start.group(), hook());
      p.setNamesrvAddr(start.endpoint());
      p.setInstanceName("transactions"); // a group is unique in an instance
      p.setTransactionListener(new Commit());
      p.start();
      transactions = p;
    }
    return transactions;
  }

  private static final class Commit implements TransactionListener {
    @Override
    public LocalTransactionState executeLocalTransaction(Message message, Object arg) {
      return LocalTransactionState.COMMIT_MESSAGE;
    }

    @Override
    public LocalTransactionState checkLocalTransaction(MessageExt message) {
      return LocalTransactionState.COMMIT_MESSAGE;
    }
  }

  @Override
  public int code(Throwable e) {
    return e instanceof MQBrokerException broker ? broker.getResponseCode() : 0;
  }

  @Override
  public void close() {
    if (transactions != null) {
      transactions.shutdown();
    }
    producer.shutdown();
  }
}
