package config

import (
	"strings"
	"testing"
)

func TestSessionOwnerSettings(t *testing.T) {
	c, err := loadText(t, "")
	if err != nil || c.Auth.SessionOwner != "strict" || len(c.Auth.ClientID) != 0 {
		t.Errorf("defaults: %q %q %v", c.Auth.SessionOwner, c.Auth.ClientID, err)
	}
	c, err = loadText(t, "auth:\n  session-owner: clean\n  client-id: [\"%u\", \"%u-*\"]\n")
	if err != nil || c.Auth.SessionOwner != "clean" || strings.Join(c.Auth.ClientID, " ") != "%u %u-*" {
		t.Errorf("%+v %v", c, err)
	}
	if _, err = loadText(t, "auth:\n  session-owner: lax\n"); err == nil || !strings.Contains(err.Error(), "auth.session-owner") {
		t.Error(err)
	}
}
