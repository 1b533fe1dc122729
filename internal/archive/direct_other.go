//go:build !linux

package archive

func setDirect(int, bool) bool { return false }
