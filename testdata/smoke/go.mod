module edge/testdata/smoke

go 1.26
