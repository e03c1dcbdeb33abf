package rocketmqserver

import (
	"fmt"
	"strconv"

	"github.com/homing-mq/homing/internal/rocketmq"
)

// handle takes one request. An error closes the connection.
func (c *conn) handle(f rocketmq.Frame, oversized bool) error {
	if err := c.cmd.Decode(f.Serialize, f.Header); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if c.cmd.IsResponse() {
		return nil // nothing was asked
	}
	c.srv.Stats.Requests[Remoting].Add(1)
	code := rocketmq.RequestCode(c.cmd.Code)
	switch code {
	case rocketmq.SendMessage, rocketmq.SendMessageV2, rocketmq.SendBatchMessage:
		if oversized {
			err := refuse(tooLarge, "the request is larger than %d bytes (limits.packet-size)", c.srv.opt.BodySize)
			c.srv.refused(Remoting, err)
			c.refuse(f.Serialize, err)
			return nil
		}
		c.handleSend(code, f)
	case rocketmq.GetRouteInfoByTopic:
		c.handleRoute(f)
	case rocketmq.HeartBeat:
		if oversized || len(f.Body) > maxHeartbeat {
			return fmt.Errorf("a heartbeat of over %d bytes", maxHeartbeat)
		}
		return c.handleHeartbeat(f)
	case rocketmq.UnregisterClient:
		c.handleUnregister(f)
	case rocketmq.GetConsumerListByGroup:
		c.handleConsumerList(f)
	case rocketmq.QueryConsumerOffset:
		c.reply(rocketmq.QueryNotFound, "no offset is stored: "+noConsumers, nil, nil, f.Serialize)
	case rocketmq.UpdateConsumerOffset:
		c.reply(rocketmq.Success, "", nil, nil, f.Serialize)
	case rocketmq.EndTransaction:
		c.refuse(f.Serialize, errTransaction)
	default:
		remark := code.String() + " is not supported: this is homing, which takes messages of RocketMQ producers"
		if isConsumers(code) {
			remark = code.String() + " is not supported: " + noConsumers
		}
		c.reply(rocketmq.RequestCodeNotSupported, remark, nil, nil, f.Serialize)
	}
	return nil
}

// maxHeartbeat bounds the body of a heartbeat, which is kept, bytes.
const maxHeartbeat = 64 << 10

const noConsumers = "homing has no RocketMQ consumers, devices receive by MQTT"

func isConsumers(code rocketmq.RequestCode) bool {
	switch code {
	case rocketmq.PullMessage, rocketmq.LitePullMessage, rocketmq.PopMessage, rocketmq.AckMessage, rocketmq.BatchAckMessage,
		rocketmq.PeekMessage, rocketmq.ChangeMessageInvisibleTime, rocketmq.Notification, rocketmq.QueryAssignment,
		rocketmq.ConsumerSendMsgBack, rocketmq.LockBatchMQ, rocketmq.UnlockBatchMQ, rocketmq.CheckClientConfig,
		rocketmq.SearchOffsetByTimestamp, rocketmq.GetMaxOffset, rocketmq.GetMinOffset, rocketmq.GetEarliestMsgStoreTime:
		return true
	}
	return false
}

// refuse answers with what an error says.
func (c *conn) refuse(s rocketmq.Serialize, err error) {
	o := told(err)
	c.reply(o.remoting, o.text, nil, nil, s)
}

// queues is how many queues a topic seems to have. SDKs spread their messages
// over them; here they lead to the same place.
const queues = 4

// brokerName is the name of the one broker that there seems to be.
const brokerName = "homing"

// handleRoute answers a name server's question. As with RocketMQ's name servers
// anybody may ask. Every topic has a route, also one that no message is taken
// for: SDKs throw the reason away if there is none, and show that of a send.
func (c *conn) handleRoute(f rocketmq.Frame) {
	addr := c.srv.opt.Advertise
	if addr == "" {
		addr = c.local.String()
	}
	body := rocketmq.AppendRoute(nil, &rocketmq.Route{
		BrokerName: brokerName, Cluster: brokerName, Addr: addr, Queues: queues, Perm: rocketmq.PermRead | rocketmq.PermWrite,
	})
	c.reply(rocketmq.Success, "", nil, body, f.Serialize)
}

func (c *conn) handleHeartbeat(f rocketmq.Frame) error {
	var h rocketmq.Heartbeat
	if err := h.Decode(f.Body); err != nil {
		return err
	}
	c.mu.Lock()
	c.client = h
	c.mu.Unlock()
	if len(c.cmd.Ext.Get(rocketmq.KeyAccessKey)) > 0 {
		_ = c.authenticate(f.Body) // who it is counts for large sends; the heartbeat is taken from anybody
	}
	if len(h.Consumers) > 0 && !c.warned {
		c.warned = true
		c.srv.log.Warn("a RocketMQ client wants to consume, which is not supported", "remote", c.remote.String(),
			"client", string(clip([]byte(h.ClientID))), "groups", len(h.Consumers), "group", string(clip([]byte(h.Consumers[0]))))
	}
	c.reply(rocketmq.Success, "", nil, nil, f.Serialize)
	return nil
}

// handleUnregister takes a client's farewell from a group.
func (c *conn) handleUnregister(f rocketmq.Frame) {
	producer, consumer := c.cmd.Ext.Get("producerGroup"), c.cmd.Ext.Get("consumerGroup")
	c.mu.Lock()
	without := func(groups []string, name []byte) (rest []string) {
		for _, g := range groups {
			if g != string(name) {
				rest = append(rest, g)
			}
		}
		return rest
	}
	c.client.Producers = without(c.client.Producers, producer)
	c.client.Consumers = without(c.client.Consumers, consumer)
	c.mu.Unlock()
	c.reply(rocketmq.Success, "", nil, nil, f.Serialize)
}

func (c *conn) handleConsumerList(f rocketmq.Frame) {
	group := c.cmd.Ext.Get("consumerGroup")
	ids := c.srv.consumers(group)
	if len(ids) == 0 {
		c.reply(rocketmq.SystemError, "no consumer of group "+strconv.Quote(string(clip(group)))+" is connected", nil, nil, f.Serialize)
		return
	}
	c.reply(rocketmq.Success, "", nil, rocketmq.AppendConsumerList(nil, ids), f.Serialize)
}
