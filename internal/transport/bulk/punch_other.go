//go:build !linux

package bulk

import "os"

// punch leaves the region as it is: it is used again.
func punch(*os.File, int64, int64) error { return nil }
