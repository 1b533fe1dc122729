// Package guestrpc is the host's side of the guest protocol (api/guest/v1): a [Client] for control calls, and an [Exec] for
// each command, which has a connection of its own.
//
// Every byte from the guest is hostile. Frames are bounded before they are read, answers are checked field by field, and an
// Exec accepts its events only in the order that the protocol allows; what breaks a rule is an error that names it, and
// ends the connection. What one Exec can make the host hold is fixed: a few dozen frames of at most 34 KiB.
//
// Output is paced by credit: the guest may have [outputCredit] messages under way, and gets more as Recv hands them out. So
// when nobody calls Recv, the command in the guest blocks in write(2).
package guestrpc

import (
	"errors"
	"net"
)

// Conn is a byte stream to the guest agent. Its Close must end a Read and a Write that wait.
type Conn = net.Conn

// Protocol is the version that this package speaks.
const Protocol = 1

var (
	// ErrStdinClosed is returned for stdin after CloseStdin, after the end of the command, or when it has none.
	ErrStdinClosed = errors.New("the command's stdin is closed")
	// ErrBroken is returned when the connection to the guest agent is lost.
	ErrBroken = errors.New("the connection to the guest agent broke")
)
