package terminal

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// WatchSize tells the size of a terminal whenever it has changed, until ctx ends: for a program that shows something there
// and takes no keys. Of several changes only the last is told.
func WatchSize(ctx context.Context, f *os.File) <-chan Size {
	sizes := make(chan Size)
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(got)
		var size Size
		var offer chan<- Size // nil while there is nothing to tell
		for {
			select {
			case <-got:
				now, err := SizeOf(f)
				if err == nil && now.Rows > 0 && now.Cols > 0 {
					size, offer = now, sizes
				}
			case offer <- size:
				offer = nil
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
