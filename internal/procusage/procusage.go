// Package procusage measures what a process uses of this host.
package procusage

import (
	"errors"
	"time"
)

// Usage is what a process uses now. Sizes are bytes.
type Usage struct {
	CPU time.Duration // in user and kernel mode, since its start
	RSS uint64        // resident
	PSS uint64        // resident, with what is shared divided among those who share it; 0 when it is not known
}

// ErrUnknown is returned where a host has no numbers, or the process is gone or another one.
var ErrUnknown = errors.New("it is not known what the process uses")
