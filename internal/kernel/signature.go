package kernel

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// releaseSigners are the fingerprints of those who release stable kernels, as
// kernel.org/signature.html gives them. The keys themselves are in
// images/kernel/keys; this list is what makes them trusted.
func releaseSigners() []string {
	return []string{
		"647F28654894E3BD457199BE38DBBDC86092693E", // Greg Kroah-Hartman
		"E27E5D8A3403A2EF66873BBCDEA66FF797772CDC", // Sasha Levin
	}
}

// uncompressedMaxBytes bounds what a tarball may unpack to; a release is about
// 1.4 GB.
const uncompressedMaxBytes = 8 << 30

// releaseKeys reads the signers' public keys and checks each against its
// fingerprint, so that a file cannot put another key in a signer's place.
func releaseKeys(tree fs.FS) (openpgp.EntityList, error) {
	var keys openpgp.EntityList
	for _, fingerprint := range releaseSigners() {
		name := path.Join("keys", fingerprint+".asc")
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return nil, fmt.Errorf("read the key of a kernel developer: %w", err)
		}
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("read the key %s: %w", name, err)
		}
		if len(list) != 1 {
			return nil, fmt.Errorf("read the key %s: it holds %d keys instead of one", name, len(list))
		}
		if got := strings.ToUpper(hex.EncodeToString(list[0].PrimaryKey.Fingerprint)); got != fingerprint {
			return nil, fmt.Errorf("read the key %s: its fingerprint is %s", name, got)
		}
		keys = append(keys, list[0])
	}
	return keys, nil
}

// verifySignature checks a detached, armoured signature over what the xz file
// at tarball unpacks to: kernel.org signs the plain tar, so that one signature
// serves every compression.
func verifySignature(ctx context.Context, keys openpgp.KeyRing, tarball string, signature []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "xz", "-dc", "--", tarball)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	plain, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("verify %s: %w", tarball, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("verify %s: start xz: %w", tarball, err)
	}
	_, sigErr := openpgp.CheckArmoredDetachedSignature(keys, io.LimitReader(plain, uncompressedMaxBytes), bytes.NewReader(signature), nil)
	if sigErr != nil {
		cancel() // the rest need not be unpacked
	}
	waitErr := cmd.Wait()
	switch {
	case errors.Is(sigErr, io.EOF):
		return fmt.Errorf("verify %s: what was sent as its signature is none", tarball)
	case sigErr != nil && complaint.Len() > 0:
		return fmt.Errorf("verify %s: %s", tarball, strings.TrimSpace(complaint.String()))
	case sigErr != nil:
		return fmt.Errorf("verify %s: its signature is not a kernel developer's: %w", tarball, sigErr)
	case waitErr != nil:
		return fmt.Errorf("verify %s: unpack: %w", tarball, errors.Join(waitErr, errors.New(strings.TrimSpace(complaint.String()))))
	}
	return nil
}
