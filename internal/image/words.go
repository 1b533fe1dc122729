package image

import (
	"fmt"
	"strings"
	"syscall"
)

// failed is the error of a program that was run in the C locale: its end, its last words, and syscall.ENOSPC where these say that
// a disk is full, which no exit code tells.
func failed(program string, end error, words string) error {
	words = strings.Join(strings.Fields(words), " ")
	err := fmt.Errorf("%s: %w: %s", program, end, words[max(0, len(words)-500):])
	if saidFull(words) {
		return fmt.Errorf("%w (%w)", err, syscall.ENOSPC)
	}
	return err
}

func saidFull(words string) bool { return strings.Contains(words, "No space left on device") }
