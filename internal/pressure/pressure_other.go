//go:build !linux

package pressure

import "context"

// Watch returns ErrUnknown.
func Watch(context.Context, func()) error { return ErrUnknown }

// AvailableMiB returns ErrUnknown.
func AvailableMiB() (int, error) { return 0, ErrUnknown }
