// Package transport is the host's end of the byte channels to the guest.
//
// # The serial link
//
// A VMM without vsock gives the guest one virtio-serial port, whose host side is a unix socket. [DialSerial] makes a
// [Session] of it, and [Session.Open] a byte stream to a port of the guest:
//
//	unix socket ── preamble ── yamux ── stream ── port (u32, big endian), then bytes
//
// The preamble (package preamble) marks where a session begins, so that a daemon that was killed and comes back can take
// over a link on which bytes of the old session are still under way. There is nothing to wait for or poll before a dial:
// what the host writes stays in the socket until the guest opens its port, and the guest's answer is what is waited for.
// The last session wins: the guest ends an older one when it sees a new preamble.
//
// The guest's end is in guestlink (sessions, and a net.Listener a port), virtioport (the device) and vsock.
//
// # What the guest can do
//
// Every byte from the guest is hostile. What it can make this package hold is bounded: one read buffer, and a window of
// 256 KiB for each stream that the host has opened. It cannot open streams or send pings: a frame that says so ends the
// session. It can stop reading, and then writes block: each call ends with its context or with Close.
package transport
