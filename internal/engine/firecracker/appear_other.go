//go:build !linux

package firecracker

import (
	"context"
	"errors"
)

// Firecracker runs on Linux only: Launch has refused before a directory is watched.
var errNotLinux = errors.New("Firecracker runs on Linux only")

type dirWatch struct{}

func watchDir(string) (*dirWatch, error)             { return nil, errNotLinux }
func (*dirWatch) wait(context.Context, string) error { return errNotLinux }
func (*dirWatch) close()                             {}
