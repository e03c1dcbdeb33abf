package rocketmq

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// zstdWindow is the largest window of a Zstd frame that is taken, in bytes: the
// one that RFC 8878 wants every decoder to have, which is enough for Java's
// compression levels up to 19.
const zstdWindow = 8 << 20

// Inflate undoes the compression that the system flag of a message tells of
// (MessageSysFlag, CompressorFactory), into dst[:0], which must not overlap
// body. What would be more than limit bytes is ErrTooLarge and what is damaged
// ErrMalformed. A body that is not compressed is returned as it is.
//
// Besides the result, of which at most limit bytes and one are made, it takes
// the memory of a decompressor: 40 KiB for Zlib, up to the block and window size
// that the body names for LZ4 (8 MiB) and Zstd (zstdWindow, and what it has
// ahead). Decompressors are kept for later calls.
func Inflate(dst, body []byte, sysFlag int32, limit int) ([]byte, error) {
	limit = min(max(limit, 0), math.MaxInt-1)
	if sysFlag&SysCompressed == 0 {
		if len(body) > limit {
			return nil, tooLarge(limit)
		}
		return body, nil
	}
	pool, err := inflatersOf(sysFlag)
	if err != nil {
		return nil, err
	}
	z := pool.Get().(inflater)
	defer func() {
		z.release()
		pool.Put(z)
	}()
	if err := z.begin(body); err != nil {
		return nil, malformed("compressed body: %v", err)
	}
	if dst == nil {
		dst = make([]byte, 0, min(limit, 4*len(body)))
	}
	return readAll(dst[:0], z, limit)
}

func tooLarge(limit int) error {
	return fmt.Errorf("%w: the body has more than %d bytes", ErrTooLarge, limit)
}

// inflater is a decompressor that can be used again and again.
type inflater interface {
	io.Reader
	begin(body []byte) error
	release() // ends what began, and lets go of the body
}

var (
	zlibs = sync.Pool{New: func() any { return new(zlibInflater) }}
	lz4s  = sync.Pool{New: func() any { return &lz4Inflater{Reader: lz4.NewReader(nil)} }}
	zstds = sync.Pool{New: func() any { return newZstd() }}
)

func inflatersOf(sysFlag int32) (*sync.Pool, error) {
	switch compression := sysFlag & SysCompression; compression {
	case 0, SysZlib:
		return &zlibs, nil
	case SysLZ4:
		return &lz4s, nil
	case SysZstd:
		return &zstds, nil
	default:
		return nil, malformed("unknown compression %d", compression>>8)
	}
}

type zlibInflater struct {
	io.ReadCloser
	src bytes.Reader
}

func (z *zlibInflater) begin(body []byte) (err error) {
	z.src.Reset(body)
	if z.ReadCloser == nil {
		z.ReadCloser, err = zlib.NewReader(&z.src)
		return err
	}
	return z.ReadCloser.(zlib.Resetter).Reset(&z.src, nil)
}

func (z *zlibInflater) release() { z.src.Reset(nil) }

type lz4Inflater struct {
	*lz4.Reader
	src bytes.Reader
}

func (z *lz4Inflater) begin(body []byte) error {
	z.src.Reset(body)
	z.Reader.Reset(&z.src)
	return nil
}

func (z *lz4Inflater) release() {
	z.src.Reset(nil)
	z.Reader.Reset(nil)
}

type zstdInflater struct {
	*zstd.Decoder
	src bytes.Reader
}

func newZstd() *zstdInflater {
	// Concurrency 1 means no goroutines, so that a decoder needs no Close.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	return &zstdInflater{Decoder: d}
}

func (z *zstdInflater) begin(body []byte) error {
	z.src.Reset(body)
	return z.Decoder.Reset(&z.src)
}

func (z *zstdInflater) release() {
	z.src.Reset(nil)
	if err := z.Decoder.Reset(nil); err != nil {
		panic(err) // only a closed one fails
	}
}

// readAll reads r to its end and appends it to dst.
func readAll(dst []byte, r io.Reader, limit int) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			grown := make([]byte, len(dst), min(limit, 2*len(dst)+512)+1)
			copy(grown, dst)
			dst = grown
		}
		n, err := r.Read(dst[len(dst):min(cap(dst), limit+1)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst) > limit:
			return nil, tooLarge(limit)
		case errors.Is(err, io.EOF):
			return dst, nil
		case err != nil:
			return nil, malformed("compressed body: %v", err)
		}
	}
}
