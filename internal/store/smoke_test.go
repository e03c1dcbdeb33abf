package store
import ("testing";"fmt";"github.com/homing-mq/homing/internal/mq")
func TestSmoke(t *testing.T){
 dir:=t.TempDir()
 done:=make(chan error,100)
 o:=Options{Dir:dir,Done:func(ops []mq.Op,err error){for range ops{done<-err}}}
 s,err:=Open(o); if err!=nil{t.Fatal(err)}
 in:=s.Inbox("a"); or:=s.Inbox("o")
 for i:=1;i<=10;i++{ s.Submit(mq.Op{Kind:mq.OpPut,Inbox:in,Seq:uint64(i),Record:[]byte(fmt.Sprint("r",i)),Owner:1,Origin:or,PacketID:uint16(i)}); if e:=<-done;e!=nil{t.Fatal(e)}}
 es,_,err:=s.Read(in,0,100,1000,nil,nil); t.Log(es,err,s.Stats(in),s.Claims(or))
 s.Submit(mq.Op{Kind:mq.OpAck,Inbox:in,Seq:3})
 s.PutSession("x",mq.SessionMeta{ExpirySeconds:3}); s.PutSubscriptions("x",[]mq.Subscription{{Filter:"a/b",QoS:1,ID:7}})
 if err:=s.Close();err!=nil{t.Fatal(err)}
 s,err=Open(o); if err!=nil{t.Fatal(err)}
 in=s.Inbox("a")
 es,_,err=s.Read(in,0,100,1000,nil,nil); t.Log(es,err,s.Stats(in),s.Claims(s.Inbox("o")))
 t.Log(s.Subscriptions("x"))
 s.Close()
}
