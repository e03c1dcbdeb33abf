//go:build !linux

package mqttserver

import "golang.org/x/sys/unix"

// unreadBytes is how many bytes lie in a socket.
func unreadBytes(fd int) int {
	n, _ := unix.IoctlGetInt(fd, fionread) // of a socket it has no error
	return n
}

// fionread is FIONREAD of the BSDs and of macOS.
const fionread = 0x4004667f

// peerOpen reports whether the other end of a socket has not closed its direction,
// as far as that can be told.
func peerOpen(int) bool { return true }
