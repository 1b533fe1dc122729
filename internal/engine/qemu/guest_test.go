package qemu

import (
	"bytes"
	le "encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Programs of a guest that needs no kernel. They run on x86 in 32-bit protected mode without paging, where PVH begins.
// Each prints "hello" and a newline on the first serial port.
var (
	guestHalts  = append(hello(), 0xf4, 0xeb, 0xfd) // again: hlt; jmp again
	guestPanics = append(printing("Kernel panic - not syncing: out of tea\n"), guestResets()...)
)

func hello() []byte { return printing("hello\n") }

func printing(text string) []byte {
	code := []byte{0xba, 0xf8, 0x03, 0, 0} // mov edx, 0x3f8
	for _, c := range []byte(text) {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	return code
}

// guestResets is a triple fault: an interrupt with an empty interrupt table.
func guestResets() []byte {
	return []byte{
		0x6a, 0x00, 0x6a, 0x00, // push 0; push 0
		0x0f, 0x01, 0x1c, 0x24, // lidt [esp]
		0xcc, // int3
	}
}

// writeGuest makes a 32-bit ELF file with a PVH entry point (a note of type 18 of the name "Xen": the physical address to
// start at in 32-bit mode) and returns its path.
func writeGuest(t *testing.T, program []byte) string {
	t.Helper()
	const (
		addr       = 0x100000
		stack      = addr + 0x8000
		ehdr, phdr = 52, 32
		codeAt     = 0x1000
		noteAt     = ehdr + 2*phdr
	)
	code := append([]byte{0xbc, 0, 0, 0, 0}, program...) // mov esp, stack
	le.LittleEndian.PutUint32(code[1:], stack)
	note := append([]byte{4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0}, "Xen\x00"...)
	note = le.LittleEndian.AppendUint32(note, addr)

	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if err := le.Write(&b, le.LittleEndian, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.WriteString("\x7fELF\x01\x01\x01")
	b.Write(make([]byte, 9))
	put(uint16(2), uint16(3), uint32(1), uint32(addr), uint32(ehdr), uint32(0), uint32(0)) // executable, i386, entry, headers
	put(uint16(ehdr), uint16(phdr), uint16(2), uint16(0), uint16(0), uint16(0))
	put(uint32(1), uint32(codeAt), uint32(addr), uint32(addr), uint32(len(code)), uint32(0x10000), uint32(7), uint32(0x1000)) // load
	put(uint32(4), uint32(noteAt), uint32(0), uint32(0), uint32(len(note)), uint32(len(note)), uint32(4), uint32(4))          // note
	b.Write(note)
	b.Write(make([]byte, codeAt-b.Len()))
	b.Write(code)
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
