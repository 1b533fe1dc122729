//go:build !linux

package disk

import "os"

// reflink is not for hosts whose system calls clone by name only, and not into a file that is open.
func reflink(_, _ *os.File) error { return errNoReflink }

// Darwin's values: unistd.h.
const (
	seekHole = 3
	seekData = 4
)
