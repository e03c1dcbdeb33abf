package inboxlog

import "hash/maphash"

const (
	tableShards = 256
	shardShift  = 32 - 8
)

// table maps client IDs to slot numbers: open addressing with linear probing,
// in shards so that growing one never takes long.
type table struct {
	seed   maphash.Seed
	shards [tableShards]shard
	count  int
}

type shard struct {
	cells []uint32 // slot numbers; 0: empty. A power of two of them
	count int
}

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// hash returns the hash of a client ID.
func (t *table) hash(name string) uint32 { return uint32(maphash.String(t.seed, name) >> 16) }

// find returns the slot with this hash for which same is true, or 0.
func (ix *index) find(hash uint32, name string) uint32 {
	sh := &ix.table.shards[hash>>shardShift]
	if len(sh.cells) == 0 {
		return 0
	}
	mask := uint32(len(sh.cells) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		id := sh.cells[i]
		if id == 0 {
			return 0
		}
		if s := ix.slot(id); s.hash == hash && string(ix.name(s)) == name {
			return id
		}
	}
}

// enter adds slot id, which is not in the table yet, under its hash.
func (ix *index) enter(id uint32) {
	hash := ix.slot(id).hash
	sh := &ix.table.shards[hash>>shardShift]
	if sh.count*4 >= len(sh.cells)*3 {
		old := sh.cells
		sh.cells = make([]uint32, max(8, 2*len(old)))
		for _, o := range old {
			if o != 0 {
				sh.set(o, ix.slot(o).hash)
			}
		}
	}
	sh.set(id, hash)
	sh.count++
	ix.table.count++
}

func (sh *shard) set(id, hash uint32) {
	mask := uint32(len(sh.cells) - 1)
	i := hash & mask
	for sh.cells[i] != 0 {
		i = (i + 1) & mask
	}
	sh.cells[i] = id
}

// leave removes slot id and closes the gap, so that no tombstones are needed.
func (ix *index) leave(id uint32) {
	hash := ix.slot(id).hash
	sh := &ix.table.shards[hash>>shardShift]
	mask := uint32(len(sh.cells) - 1)
	gap := hash & mask
	for sh.cells[gap] != id {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; sh.cells[i] != 0; i = (i + 1) & mask {
		home := ix.slot(sh.cells[i]).hash & mask
		if (i-home)&mask >= (i-gap)&mask { // its home is not after the gap
			sh.cells[gap] = sh.cells[i]
			gap = i
		}
	}
	sh.cells[gap] = 0
	sh.count--
	ix.table.count--
}
