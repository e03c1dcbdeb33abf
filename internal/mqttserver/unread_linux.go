package mqttserver

import "golang.org/x/sys/unix"

// unreadBytes is how many bytes lie in a socket.
func unreadBytes(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ) // of a socket it has no error
	return n
}
