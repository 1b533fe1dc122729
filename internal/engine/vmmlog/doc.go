// Package vmmlog keeps what a VMM and its guest say: in logs of bounded size, since a guest may print without end, fed from
// FIFOs that never stop the VMM that writes to them.
package vmmlog
