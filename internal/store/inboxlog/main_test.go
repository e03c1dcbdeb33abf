package inboxlog

import (
	"testing"

	"go.uber.org/goleak"
)

func leakMain(m *testing.M) { goleak.VerifyTestMain(m) }
