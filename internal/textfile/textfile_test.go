package textfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for in, want := range map[string]string{"": "", "a: b": "a: b", "\xEF\xBB\xBFa: b": "a: b", "\xEF\xBB": "\xEF\xBB", "\xEF\xBB\xBF": ""} {
		if err := os.WriteFile(path, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"\xFF\xFEa\x00", "\xFE\xFF\x00a"} {
		if _, err := Plain([]byte(in)); err == nil || !strings.Contains(err.Error(), "save it as UTF-8") {
			t.Errorf("%q: %v", in, err)
		}
	}
	if _, err := Read(path + "x"); !os.IsNotExist(err) {
		t.Error(err)
	}
}
