// Package textfile reads the text files that people write with whatever editor they
// have.
package textfile

import (
	"bytes"
	"fmt"
	"os"
)

// Read returns the content of a file, as Plain makes it.
func Read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text, err := Plain(data)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return text, nil
}

// Plain leaves the byte order mark of UTF-8 away, which editors on Windows write. It
// fails for UTF-16, which nothing here reads.
func Plain(data []byte) ([]byte, error) {
	for _, mark := range []string{"\xFF\xFE", "\xFE\xFF"} {
		if bytes.HasPrefix(data, []byte(mark)) {
			return nil, fmt.Errorf("is in UTF-16; save it as UTF-8")
		}
	}
	return bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF")), nil
}
