module edge

go 1.26
