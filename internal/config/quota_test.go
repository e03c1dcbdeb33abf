package config

import (
	"strings"
	"testing"
)

// The limits on all clients are set as others are, and are on by default.
func TestQuotaSettings(t *testing.T) {
	d := Default().Limits
	for name, v := range map[string]int64{
		"inboxes": int64(d.Inboxes), "inbox-name-bytes": int64(d.InboxNameBytes), "retained-bytes": int64(d.RetainedBytes),
		"delayed-bytes": int64(d.DelayedBytes), "wills": int64(d.Wills), "will-bytes": int64(d.WillBytes),
	} {
		if v <= 0 {
			t.Errorf("limits.%s is off by default", name)
		}
		c, err := Load(Sources{Set: []string{"limits." + name + "=0"}})
		if err != nil {
			t.Errorf("limits.%s=0: %v", name, err)
		} else if l := c.Limits; l == d {
			t.Errorf("limits.%s=0 changes nothing", name)
		}
	}
	if d.Share <= 0 || d.Share >= 100 {
		t.Errorf("by default one user may take %d %%", d.Share)
	}
	for _, bad := range []string{"0", "101", "-5"} {
		if _, err := Load(Sources{Set: []string{"limits.share=" + bad}}); err == nil || !strings.Contains(err.Error(), "limits.share") {
			t.Errorf("limits.share=%s: %v", bad, err)
		}
	}
}

// TestOneText: a list that usually has one text may be given as that.
func TestOneText(t *testing.T) {
	c, err := Load(Sources{Set: []string{`auth.client-id="%u"`}})
	if err != nil || len(c.Auth.ClientID) != 1 || c.Auth.ClientID[0] != "%u" {
		t.Errorf("%v, %v", c, err)
	}
}
