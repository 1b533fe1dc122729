//go:build !linux

package census

import (
	"errors"
	"fmt"
)

var errNoProc = fmt.Errorf("this host has no /proc: %w", errors.ErrUnsupported)

// Processes returns an error that is errors.ErrUnsupported.
func Processes([]string) ([]Process, error) { return nil, errNoProc }

// Identify returns an error that is errors.ErrUnsupported.
func Identify(int) (Identity, error) { return Identity{}, errNoProc }

// Zombies returns an error that is errors.ErrUnsupported.
func Zombies(int) ([]int, error) { return nil, errNoProc }

// Descriptors returns an error that is errors.ErrUnsupported.
func Descriptors(int) (int, error) { return 0, errNoProc }

// ActivityOf returns an error that is errors.ErrUnsupported.
func ActivityOf(int) (Activity, error) { return Activity{}, errNoProc }

// Sockets returns an error that is errors.ErrUnsupported.
func Sockets([]string) ([]string, error) { return nil, errNoProc }
