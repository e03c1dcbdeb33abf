package store

import "github.com/cockroachdb/pebble/v2/vfs"

// minFree is how many bytes the inbox log leaves free for the metadata: Pebble
// replays its logs into new files. On a small file system it is less, but never
// under what Pebble needs.
const (
	minFree      = 16 << 20
	minFreeShare = 16 // of the file system
	minFreeLeast = 2*metaMemTable + 1<<20
)

// neededFree returns how many bytes of a file system with total bytes the inbox
// log leaves free. total 0: it is unknown.
func neededFree(total uint64) uint64 {
	if total == 0 {
		return minFree
	}
	return min(max(total/minFreeShare, minFreeLeast), minFree)
}

// keepFree is what the inbox log leaves free in dir.
func keepFree(fs vfs.FS, dir string) int64 {
	u, err := fs.GetDiskUsage(dir)
	if err != nil {
		return minFree
	}
	return int64(neededFree(u.TotalBytes))
}
