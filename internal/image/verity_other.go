//go:build !linux

package image

func enableVerity(string) {}

// Verity is the digest of a file by which the host's file system checks each read of it, or empty when it does not check: this
// host's kernel has no such thing.
func Verity(string) string { return "" }
