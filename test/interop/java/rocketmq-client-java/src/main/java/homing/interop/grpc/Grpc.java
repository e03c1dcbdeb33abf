package homing.interop.grpc;

import homing.interop.line.Driver;
import homing.interop.line.Sdk;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientConfigurationBuilder;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.StaticSessionCredentialsProvider;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.ProducerBuilder;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** org.apache.rocketmq:rocketmq-client-java. It uses TLS unless told otherwise, and trusts any certificate. */
public final class Grpc implements Sdk {
  /** The one place where the SDK shows the server's code: the text of a ClientException. */
  private static final Pattern CODE = Pattern.compile("response-code=(\\d+)");

  private Start start;
  private ClientServiceProvider provider;
  private Producer producer;
  private Producer transactions; // null before the first

  public static void main(String[] args) throws IOException {
    Driver.run(new Grpc());
  }

  @Override
  public List<String> modes() {
    return List.of("sync", "async", "delay", "ordered", "transaction");
  }

  @Override
  public boolean tlsByDefault() {
    return true;
  }

  @Override
  public void start(Start start) throws ClientException {
    this.start = start;
    provider = ClientServiceProvider.loadService();
    producer = builder().build();
  }

  private ProducerBuilder builder() {
    return provider.newProducerBuilder().setClientConfiguration(configuration()).setTopics(start.topic());
  }

  private ClientConfiguration configuration() {
    ClientConfigurationBuilder b = ClientConfiguration.newBuilder().setEndpoints(start.endpoint());
    if (!start.tls()) {
      b.enableSsl(false);
    }
    if (!start.accessKey().isEmpty()) {
      b.setCredentialProvider(new StaticSessionCredentialsProvider(start.accessKey(), start.secretKey()));
    }
    return b.build();
  }

  @Override
  public CompletableFuture<Receipt> send(Send send) throws ClientException {
    MessageBuilder message = message(send);
    switch (send.mode()) {
      case "async":
        return producer.sendAsync(message.build()).thenApply(Grpc::receipt);
      case "delay":
        return sent(producer.send(message.setDeliveryTimestamp(deliverAt(send)).build()));
      case "ordered":
        return sent(producer.send(message.setMessageGroup(send.orderKey()).build()));
      case "transaction":
        return sent(transact(message.build()));
      default:
        return sent(producer.send(message.build()));
    }
  }

  private SendReceipt transact(Message message) throws ClientException {
    if (transactions == null) {
      transactions = builder().setTransactionChecker(m -> TransactionResolution.COMMIT).build();
    }
    Transaction transaction = transactions.beginTransaction();
    SendReceipt receipt = transactions.send(message, transaction);
    transaction.commit();
    return receipt;
  }

  private static CompletableFuture<Receipt> sent(SendReceipt receipt) {
    return CompletableFuture.completedFuture(receipt(receipt));
  }

  private static Receipt receipt(SendReceipt receipt) {
    return new Receipt("OK", List.of(receipt.getMessageId().toString()));
  }

  /** Unix time in milliseconds. */
  private static long deliverAt(Send send) {
    if (send.delayLevel() > 0) {
      throw new UnsupportedOperationException("this SDK has no delay levels");
    }
    return System.currentTimeMillis() + send.delayMs();
  }

  private MessageBuilder message(Send send) {
    MessageBuilder message = provider.newMessageBuilder().setTopic(send.topic()).setBody(send.bytes());
    if (send.tag() != null && !send.tag().isEmpty()) {
      message.setTag(send.tag());
    }
    if (send.keys() != null && !send.keys().isEmpty()) {
      message.setKeys(send.keys().toArray(String[]::new));
    }
    if (send.properties() != null) {
      send.properties().forEach(message::addProperty);
    }
    return message;
  }

  @Override
  public int code(Throwable e) {
    Matcher code = CODE.matcher(e instanceof ClientException ? String.valueOf(e.getMessage()) : "");
    return code.find() ? Integer.parseInt(code.group(1)) : 0;
  }

  @Override
  public void close() throws IOException {
    if (transactions != null) {
      transactions.close();
    }
    producer.close();
  }
}
