package auth

// recent is a map that forgets what was not used for a while once it is full:
// it keeps the present generation and the one before, each of at most size
// entries. The caller locks.
type recent[K comparable, V any] struct {
	size      int
	now, past map[K]V
}

func newRecent[K comparable, V any](size int) recent[K, V] {
	return recent[K, V]{size: size, now: make(map[K]V)}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	if v, ok := r.now[k]; ok {
		return v, true
	}
	v, ok := r.past[k]
	if ok {
		r.put(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if _, ok := r.now[k]; !ok && len(r.now) >= r.size {
		r.past, r.now = r.now, make(map[K]V)
	}
	r.now[k] = v
}

func (r *recent[K, V]) remove(k K) {
	delete(r.now, k)
	delete(r.past, k)
}
