package mqttserver

import "golang.org/x/sys/unix"

// unreadBytes is how many bytes lie in a socket.
func unreadBytes(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ) // of a socket it has no error
	return n
}

// peerOpen reports whether the other end of a socket has not closed its direction.
func peerOpen(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpEstablished
}

const tcpEstablished = 1 // TCP_ESTABLISHED of the kernel's tcp_states.h
