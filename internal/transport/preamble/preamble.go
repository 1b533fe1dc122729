// Package preamble is how the two ends of a serial link agree on where a session begins.
//
// A serial link has no notion of a connection: when the host's process is killed and its successor takes over, bytes of the
// old session may be lost or may still be under way in either direction, and the guest may never learn of it. So the host
// begins every session with the link's Token followed by a fresh Nonce, and the guest answers with the same two. The guest
// looks for the token in everything that it reads, also in the middle of a session. The host skips everything up to its own
// token and nonce, which nothing that is older can contain.
//
// The token is random for each start of a microVM, and known inside it. Code there that has its own output fed back to it
// as input could forge one, and end the session of its own microVM with it: that is all it gains.
package preamble

import (
	"bytes"
	"encoding/hex"
	"errors"
)

// PortName is the name of the virtio-serial port that is the guest's end of the link.
const PortName = "agentkernel.0"

// Sizes in bytes.
const (
	TokenSize = 16
	NonceSize = 8
	Size      = TokenSize + NonceSize
)

// Token marks the sessions of one link.
type Token [TokenSize]byte

// Nonce tells the sessions of a link apart.
type Nonce [NonceSize]byte

// ParseToken reads a token from 32 hexadecimal digits, as the kernel parameter agentkernel.link has it.
func ParseToken(s string) (Token, error) {
	var t Token
	if len(s) != hex.EncodedLen(TokenSize) {
		return t, errors.New("a link token has 32 hexadecimal digits")
	}
	if _, err := hex.Decode(t[:], []byte(s)); err != nil {
		return t, errors.New("a link token has 32 hexadecimal digits")
	}
	return t, nil
}

// Bytes returns token and nonce as they go over the link.
func Bytes(t Token, n Nonce) []byte {
	return append(append(make([]byte, 0, Size), t[:]...), n[:]...)
}

// Finder finds a byte string in a stream that comes in pieces, wherever the pieces are cut.
type Finder struct {
	needle []byte
	tail   []byte // what came last, at most len(needle)-1 bytes
	joint  []byte // tail and the beginning of the next piece
}

// NewFinder returns a Finder for needle, which must not be empty.
func NewFinder(needle []byte) *Finder {
	n := len(needle) - 1
	return &Finder{needle: bytes.Clone(needle), tail: make([]byte, 0, n), joint: make([]byte, 0, 2*n)}
}

// Find looks at the next piece of the stream and returns the offset in it just behind the first end of the needle, or -1.
// After a find the rest of p counts as not seen: the caller passes it in again.
func (f *Finder) Find(p []byte) int {
	n := len(f.needle) - 1
	if len(f.tail) > 0 {
		f.joint = append(append(f.joint[:0], f.tail...), p[:min(len(p), n)]...)
		if i := bytes.Index(f.joint, f.needle); i >= 0 {
			end := i + len(f.needle) - len(f.tail)
			f.tail = f.tail[:0]
			return end
		}
	}
	if i := bytes.Index(p, f.needle); i >= 0 {
		f.tail = f.tail[:0]
		return i + len(f.needle)
	}
	if len(p) >= n {
		f.tail = append(f.tail[:0], p[len(p)-n:]...)
		return -1
	}
	if over := len(f.tail) + len(p) - n; over > 0 {
		f.tail = append(f.tail[:0], f.tail[over:]...)
	}
	f.tail = append(f.tail, p...)
	return -1
}
