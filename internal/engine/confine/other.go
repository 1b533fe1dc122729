//go:build !linux

package confine

import (
	"context"
	"io"
	"syscall"
)

// Self would be the path of our own program.
const Self = ""

// Main fails: nothing starts it here.
func Main(_ []string, _, stderr io.Writer) int {
	_, _ = io.WriteString(stderr, ErrNotLinux.Error()+"\n")
	return 1
}

// Attributes are none.
func Attributes() syscall.SysProcAttr { return syscall.SysProcAttr{} }

// Probe returns ErrNotLinux.
func Probe(context.Context) error { return ErrNotLinux }

// UserNamespaceHint has none.
func UserNamespaceHint() string { return "" }

// Measure returns ErrNotLinux.
func Measure(int) ([]string, error) { return nil, ErrNotLinux }

// CgroupArguments are none.
func CgroupArguments(Limits) ([]string, error) { return nil, ErrNotLinux }

// RemoveCgroups has nothing to remove.
func RemoveCgroups(string) error { return nil }
