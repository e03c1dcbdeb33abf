package rocketmq

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// compressions are the flags of each way to compress.
var compressions = map[string]int32{"zlib": SysCompressed, "zlib named": SysCompressed | SysZlib, "lz4": SysCompressed | SysLZ4, "zstd": SysCompressed | SysZstd}

// compress does the opposite of Inflate.
func compress(tb testing.TB, sysFlag int32, content io.Reader, options ...zstd.EOption) []byte {
	tb.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch sysFlag & SysCompression {
	case SysLZ4:
		w = lz4.NewWriter(&out)
	case SysZstd:
		w, err = zstd.NewWriter(&out, options...)
	default:
		w = zlib.NewWriter(&out)
	}
	if err == nil {
		_, err = io.Copy(w, content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestInflate(t *testing.T) {
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, flag := range compressions {
		for _, content := range [][]byte{{}, []byte("x"), []byte(strings.Repeat("large ", 1000)), random} {
			body := compress(t, flag, bytes.NewReader(content))
			for _, limit := range []int{len(content), len(content) + 1, math.MaxInt} {
				got, err := Inflate(nil, body, flag, limit)
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("%s, %d bytes, limit %d: %d bytes, %v", name, len(content), limit, len(got), err)
				}
			}
			if _, err := Inflate(nil, body, flag, len(content)-1); len(content) > 0 && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s, %d bytes, limit one less: %v", name, len(content), err)
			}
			dst := make([]byte, 5, 7000)
			got, err := Inflate(dst, body, flag, 1<<20)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s into a buffer: %d bytes, %v", name, len(got), err)
			}
			if 0 < len(content) && len(content) < cap(dst) && &got[0] != &dst[0] {
				t.Errorf("%s: the buffer was not used", name)
			}
		}
	}
}

func TestInflateNothing(t *testing.T) {
	body := []byte("plain")
	got, err := Inflate([]byte("buffer"), body, SysLZ4|SysBornHostV6, 5)
	if err != nil || &got[0] != &body[0] || len(got) != 5 {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Inflate(nil, body, 0, 4); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := Inflate(nil, body, SysCompressed|0x400, 100); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// A decompressor that has failed must serve the next caller as well as before.
func TestInflateDamaged(t *testing.T) {
	content := []byte(strings.Repeat("large ", 1000))
	for name, flag := range compressions {
		whole := compress(t, flag, bytes.NewReader(content))
		for n := range len(whole) {
			got, err := Inflate(nil, whole[:n], flag, 1<<20)
			// An empty input is no frame at all for LZ4 and Zstd.
			if n > 0 && err == nil || err != nil && !errors.Is(err, ErrMalformed) || n == 0 && len(got) > 0 {
				t.Errorf("%s, %d of %d bytes: %v", name, n, len(whole), err)
			}
		}
		for i := range whole {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 0x10
			if got, err := Inflate(nil, flipped, flag, 1<<20); err == nil && len(got) > 1<<20 {
				t.Errorf("%s: %d bytes", name, len(got))
			}
			if got, err := Inflate(nil, whole, flag, 1<<20); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%s, after damage at byte %d: %v", name, i, err)
			}
		}
	}
}

// zeros reads as that many zeros.
type zeros int

func (z *zeros) Read(p []byte) (int, error) {
	n := min(len(p), int(*z))
	clear(p[:n])
	if *z -= zeros(n); n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestBombs unpacks 64 MiB of zeros with a limit of 1 MiB.
func TestBombs(t *testing.T) {
	for name, flag := range compressions {
		content := zeros(64 << 20)
		bomb := compress(t, flag, &content)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Inflate(nil, bomb, flag, 1<<20); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if made := after.TotalAlloc - before.TotalAlloc; made > 32<<20 {
			t.Errorf("%s: %d MiB for a limit of one", name, made>>20)
		}
	}
}

func TestZstdWindow(t *testing.T) {
	const flag = SysCompressed | SysZstd
	for size, ok := range map[int]bool{zstdWindow: true, 2 * zstdWindow: false} {
		content := zeros(20 << 20)
		body := compress(t, flag, &content, zstd.WithWindowSize(size))
		_, err := Inflate(nil, body, flag, 32<<20)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("window %d: %v", size, err)
		}
	}
}

func TestInflateConcurrently(t *testing.T) {
	var all sync.WaitGroup
	for _, flag := range compressions {
		content := []byte(strings.Repeat("large ", 1000+int(flag)))
		body := compress(t, flag, bytes.NewReader(content))
		for range 4 {
			all.Go(func() {
				for range 50 {
					if got, err := Inflate(nil, body, flag, 1<<20); err != nil || !bytes.Equal(got, content) {
						t.Error(flag, err)
					}
				}
			})
		}
	}
	all.Wait()
}
