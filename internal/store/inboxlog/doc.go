// Package inboxlog is the log that holds all inboxes: one sequence of
// operations in segment files, and an index in memory that says what is live.
// It knows names of inboxes, seqs and records; it does not know what a record
// means, decides about no limit of an inbox and delivers nothing.
//
// # Files
//
//	0000000007.seg   a segment; the number is its epoch
//	0000000007.hint  its ops without records, to start faster; may be absent
//	spare-0000000003 a file to make a segment of: used before, or zeros
//	state            what must be there; absent with segments of version 1 to 3 only
//	*.tmp            unfinished; removed at the next start
//
// Epochs of the segments present have no gaps, and the first is the oldest that
// the state file names; one before that is not needed any more. All but the
// last one that has frames are sealed. All integers are little-endian; uvarint is that of
// encoding/binary; every checksum is CRC-32C.
//
// # Segment
//
// The first 4096 bytes are the header, written and synced before the segment
// is used. It is there twice, at 0 and at 2048, in case a sector goes bad:
//
//	 0  8 bytes "homingsg"
//	 8  u32     format version: 4
//	12  u32     epoch
//	16  u64     salt, random
//	24  u64     size: no frame reaches beyond; the file is no shorter
//	32  u64     time it was made, Unix ms
//	40  u32     0
//	44  u32     checksum of bytes 0-43
//
// Then come frames, each at a multiple of 8 bytes:
//
//	 0  u32     checksum of bytes 4-39, with initial state key XOR offset of the frame
//	 4  u32     length of the body
//	 8  u32     checksum of the body, with initial state key
//	12  2 bytes "hq"
//	14  u8      type: 1 ops, 2 seal, 3 mark
//	15  u8      0
//	16  u64     commit: never falls from frame to frame
//	24  u64     synced: everything before this position was synced when the frame was written
//	32  u64     time, Unix ms
//	40          body, then zeros up to a multiple of 8
//
// key is the checksum of salt (u64) and epoch (u32). So bytes that a recycled
// file still has from an earlier life never check, nor does a frame that was
// copied elsewhere, nor one that somebody sends as a payload.
//
// A position is epoch << 32 | offset. A frame takes effect as a whole or not at
// all; a group of ops is in one frame. A seal says that the log goes on in the
// next segment. A mark has no effect.
//
// The body of a frame of type 1 is one or more ops. An op starts with its kind
// (u8); client is uvarint length and bytes of the name of an inbox, a client ID
// or one of the server's own (see mq.Inbox), at most 65551 bytes:
//
//	1 put         n uvarint > 0, n targets, size uvarint, checksum u32 of the record, record
//	2 move        time uvarint, then as put
//	3 ack         client, seq uvarint
//	4 sent        client, seq
//	5 received    client, seq
//	6 clear       client, seq
//	7 claim       client, packet identifier u16
//	8 release     client, packet identifier u16
//	9 release all client
//
//	target: flags u8, client, seq uvarint, expiry uvarint (Unix ms, 0: none),
//	        and if bit 7 of flags is set: client and packet identifier u16 of a claim
//
// Bits 0-4 of flags are mq.Flags. A put with several targets is a fan-out: the
// record is there once. The time of a put is that of its frame, of a move the
// one given (Unix seconds). A move gives an entry a new place; if the entry is
// not known, because its put is gone, the move makes it.
//
// # Hint
//
//	 0  8 bytes "hominght"
//	 8  u32 format version, u32 epoch, u64 salt of its segment
//	24  u64     highest commit in the segment
//	32  u64     offset of the segment's seal
//	40  u32     0
//	44  u32     checksum of bytes 0-43
//	48          blocks: u32 length, u32 checksum (initial state key XOR number of the
//	            block, from 1), ops; the last block has length 0
//
// The ops are those of the segment in order, but a put or move appears as
//
//	10 ref        target (without claim), time uvarint, offset of the record uvarint, size uvarint, shared u8
//
// once per target, only if the entry was live and had its record there when the
// hint was written; and claims appear only if they were held. Replaying the
// hint then leads to the same state as replaying the segment, provided that
// what had made the others dead is in the log: therefore all of the log is
// synced before a hint gets its name. A hint that does not check is ignored.
//
// # State
//
// Two slots of 4096 bytes, written in turn and in place, each with this at 0 and
// at 2048:
//
//	 0  8 bytes "homingst"
//	 8  u32     format version
//	12  u32     epoch of the oldest segment that is needed
//	16  u64     number: of all that check, the highest counts
//	24  u64     synced: everything before this position was synced
//	32  u64     time, Unix ms
//	40  u32     0
//	44  u32     checksum of bytes 0-43
//
// It is made, complete before it has its name, once a segment of version 4 has
// its header, and written before a segment is freed and by Close. What it says
// stays true, so an older slot does as well where a crash has torn the newer.
// Writing it needs no room on the disk.
//
// # Version rule
//
// A new kind of op or frame, or any change of the above, raises the format
// version. A reader refuses a segment of a version it does not know (with a
// VersionError, before changing anything), ignores such a hint, and keeps
// reading all older versions. Ops are appended to a segment of the current
// version only: one with an older version that was not sealed yet is sealed by
// the first commit.
//
//	1  a name is a client ID, of at most 65535 bytes
//	2  names of the server's own inboxes, with U+0000 in front, and 65551 bytes
//	3  records of renamed messages (mq.AppendRecord), and delayed messages
//	4  the file of a segment has its full length before its header is written,
//	   and there is a state file
//
// A reader of version 1 would take a longer name for damage, and a retained
// message for one of a client with an odd name. One of version 2 would drop
// renamed messages as damaged and delayed ones as too old. One of version 3 would
// free segments and leave the state file behind, which would call them missing.
//
// # What is live, and getting space back
//
// Segments are freed strictly from the oldest end, when no live entry has its
// record in the oldest one and no held claim its evidence. So whatever ended or
// changed an entry (ack, clear, received, move) is never gone before the put it
// refers to: it lies behind it. Before a segment is freed, everything written
// so far is synced, so what ended its entries does not vanish in a power loss
// that the freeing survives. When the log is more than twice what is live, plus
// four segments (or at the disk limit, or on a full file system, and a sixth of
// it dead), the live rest of the
// oldest segment is moved to the end, whatever else is dead in the middle. At
// that ratio, half of the space that is passed over is got back. Order, seqs,
// flags and put times stay.
//
// A move is written before the ops that wait, from what the index says after
// all ops that are written. So in the log no move follows the end of its entry.
//
// The state file says durably that a segment is not needed before it is freed;
// after a crash in between the next start frees it.
//
// A freed segment is renamed to a spare, the directory is synced, and only then
// anything else happens; a spare is renamed to a segment and the directory
// synced before its header is written. At no time has a file the name of one
// segment and the bytes of another.
//
// Seqs have no existence beyond entries: an inbox that becomes empty and is
// forgotten starts at 1 again. That is safe since an old ack of the same seq
// lies in the log before the new put.
//
// # Torn tail or damage
//
// A crash may leave anything in the part of the log that was not synced: under
// SyncAlways the last commit (and lazy ops before it), with pages missing in
// front of pages that were written; under the other modes more. It leaves
// nothing behind the first missing frame that anybody was promised, because a
// commit is written only after the one before it was synced. Damage to what was
// synced, on the other hand, must never be taken for a torn tail, or promised
// messages vanish silently.
//
// The two are told apart by the synced field. At the first place where no
// intact frame follows (and which is no seal), the rest of the segment is
// searched at every multiple of 8, and all later segments, for intact frames.
// If any frame, before or behind, says that a position behind that place was
// synced, then bytes that were on disk are gone: Open fails with a
// CorruptError. Otherwise the log ends there. What lies behind is dropped and,
// since commit numbers go on above the highest seen, can never continue the
// chain later. The same rule makes leftovers of a commit whose write failed
// harmless: the next commit overwrites its start, and has a higher number.
//
// A power loss thus always leads back to a state the log once had, not older
// than the last sync; a kill to one not older than the last write.
//
// What is gone as a whole is told likewise:
//
//   - The oldest segment: the state file names it. It also tells a log that has
//     lost all of its segments from one that is new.
//   - Any other: the next segment has its name and header, both synced, before
//     the one before it is sealed. So a seal without an intact segment behind it
//     is damage, as is a gap between epochs.
//   - The end of a file: it had its full length before its header was written.
//   - A header: behind a seal, and in the segment that the state file names, it
//     was synced. Only the first segment of a log that was being made may have
//     none, and then there is nothing but zeros in it.
//   - The end of the log after Close: a mark and the state file say where it was.
//
// What cannot be told is damage to the very last commits after a crash, if none
// behind them is left to say that they were synced. Without an intact state file, which
// is logged and reported, the oldest segment may be missing unnoticed; it is made
// anew.
//
// # Check and Repair
//
// Check reads every byte, goes on behind damage, and asks the code of Open
// whether the log opens. Not all damage keeps it from that: segments with a hint
// are not read as a whole at the start, so a damaged message in one shows when
// it is read, or in Check. Repair gives renamed segments their names back and
// replaces damaged and missing ones by sealed ones with what checks. It gives
// the spares' room away first, and needs as much as it saves.
//
// # The file system's room
//
// The disk is looked at once a second while the log is used, by whoever would be
// refused, and by the keeper while it is full. It is full when what is free, the
// spares included, is less than 5 % (without a DiskLimit) or less than KeepFree
// and two segments. Then puts are refused and spares are
// given back but for one. When there is room again, everything that has failed
// for want of it is tried at once. No state but a failed sync needs a restart.
//
// Acknowledgements must get through on a disk that others have filled to the
// last byte. So the next segment is made early, with all of its blocks if the
// disk may be full soon; puts and moves use the end of a segment only if there
// is a next one; and when there is none, acknowledgements leave room for the live
// rest of the oldest segment, so that it can be freed. Only when there are so
// many that the keeper cannot make room as fast are they refused for a moment.
// Acknowledgements as large as their messages, of inboxes that all lie in all
// segments, need more room than there is: they wait for it.
//
// # Failures
//
// A write that fails (disk full) fails its commit: nothing of it is visible,
// the tail stays where it was. If there is no room, the spares are given back and it
// is written again first. Its ops other than puts are written again at
// once without the puts, and if that fails, too, those nobody waits for go with
// the next commit. A put to the same inbox that was submitted before Done has
// told of the failure fails with it, in whatever commit it is. A sync that fails is final, because the kernel forgets
// unwritten pages when it reports the error, and the next sync would succeed:
// from then on every op fails. An op that failed that way may be found after a
// restart.
//
// # Concurrency
//
// The committer is the only goroutine that writes frames and changes entries.
// It hands each commit to the completer, which calls Done; it asks the preparer
// for the next segment when an eighth of one is used. The keeper frees segments, moves
// entries (through the committer) and writes hints. With SyncInterval one more
// syncs.
//
// Lock order: syncMu, then tail.mu. state.mu, then index.mu. index.mu, queue.mu and spares.mu are
// leaves: nothing else is locked, called back or read while they are held.
// A read raises its segments' pins under index.mu; a segment with pins is not
// freed.
package inboxlog
