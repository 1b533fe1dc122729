//go:build !linux

package procusage

// Of returns ErrUnknown: this host tells it to nobody but the superuser and programs that are linked with its C library.
func Of(int, uint64, bool) (Usage, error) { return Usage{}, ErrUnknown }
