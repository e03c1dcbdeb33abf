package mq

import (
	"math/rand/v2"
	"testing"
)

func TestAccountOf(t *testing.T) {
	known := []*Principal{
		{ClientID: "a"}, {ClientID: "a", User: "a"}, {ClientID: "a", AccessKey: "a"}, {ClientID: "b"},
	}
	seen := map[Account]int{}
	for i, p := range known {
		a := AccountOf(p)
		if a == Nobody || a != AccountOf(&Principal{ClientID: p.ClientID, User: p.User, AccessKey: p.AccessKey}) {
			t.Errorf("%+v has account %d", *p, a)
		}
		if other, twice := seen[a]; twice {
			t.Logf("%+v and %+v have the same account: one in 65,535", *p, *known[other])
		}
		seen[a] = i
	}
	if a, b := AccountOf(known[1]), AccountOf(&Principal{ClientID: "other", User: "a"}); a != b {
		t.Errorf("a user has accounts %d and %d", a, b)
	}
	if AccountOf(nil) != Nobody || AccountOf(&Principal{}) != Nobody {
		t.Error("one without a name has an account")
	}
	p := &Principal{ClientID: "a", User: "somebody"}
	if n := testing.AllocsPerRun(100, func() { AccountOf(p) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The sums are those of a naive model, and nothing that fits goes over a limit.
func TestQuotaModel(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 7))
		q := Quota{Limit: Limit{Max: int64(rng.IntN(300)), Share: rng.IntN(101)}}
		have := map[Account]int64{}
		for range 2000 {
			a, n := Account(rng.IntN(5)), int64(rng.IntN(20))
			if rng.IntN(2) == 0 {
				n = -min(n, have[a])
			} else if !q.Fits(a, n) {
				continue
			}
			q.Add(a, n)
			have[a] += n
			var sum, owned int64
			for b, m := range have {
				sum += m
				if b != Nobody {
					owned += m
				}
				if b != Nobody && q.Of(b) != m {
					t.Fatalf("seed %d: account %d has %d, want %d", seed, b, q.Of(b), m)
				}
			}
			if q.Used() != sum || q.owned != owned || q.Limit.Max > 0 && sum > q.Limit.Max {
				t.Fatalf("seed %d: %d used, %d of it owned; want %d and %d", seed, q.Used(), q.owned, sum, owned)
			}
			if s := q.Limit.Share; n > 0 && a != Nobody && q.Limit.Max > 0 && s > 0 && have[a] > (q.Limit.Max-(sum-owned))*int64(s)/100+1 {
				t.Fatalf("seed %d: account %d has %d of %d", seed, a, have[a], q.Limit.Max)
			}
		}
	}
}

// One account that takes all it gets leaves something to another.
func TestQuotaShare(t *testing.T) {
	q := Quota{Limit: Limit{Max: 100, Share: 75}}
	greedy, modest := 0, 0
	for range 1000 {
		if q.Fits(1, 1) {
			q.Add(1, 1)
			greedy++
		}
	}
	for range 1000 {
		if q.Fits(2, 1) {
			q.Add(2, 1)
			modest++
		}
	}
	if greedy != 75 || modest != 25 {
		t.Fatalf("%d and %d arrived, want 75 and 25", greedy, modest)
	}
	if q.Fits(Nobody, 1) || q.Fits(3, 1) {
		t.Fatal("more than the limit fits")
	}
	if one := (Quota{Limit: Limit{Max: 1, Share: 75}}); !one.Fits(1, 1) {
		t.Fatal("a limit of one takes nothing")
	}
}
